//! Asks workers what their tables hold, piece by piece.
//!
//! A worker answers between two turns, one question per turn, from a bounded number of places (see
//! `engine::worker::PLACES_PER_PIECE`), into memory that the asker has taken: so a packet waits for
//! one piece at most, whatever is asked. Who wants a whole table asks again and again. The one hard
//! constraint: nobody but the asker waits. A worker that is asked while it sleeps is woken.

use std::sync::Arc;

use crossbeam::channel::Sender;
use engine::explain::Explanation;
use engine::flow::FlowInput;
use engine::worker::{
    FlowFilter, FlowView, GroupView, NeighbourView, PLACES_PER_PIECE, PathView, StationView, Tracer,
};
use engine::{Counters, Worker, WorkerId};
use tokio::sync::oneshot;

use crate::control::Ending;
use crate::runner::Command;
use crate::waker::Waker;

/// Flows or neighbours that one piece holds at most. Each costs a worker two lines of memory.
const FOUND_MAX: usize = 256;

/// A question to a worker.
pub struct Ask<T> {
    from: u32,
    /// Taken by the asker; its capacity bounds what is found.
    found: Vec<T>,
    answer: oneshot::Sender<Piece<T>>,
}

/// What was found, and where to go on; `None`: that was all.
pub type Piece<T> = (Vec<T>, Option<u32>);

/// A look at one of a worker's tables.
pub enum View {
    /// At flows that a filter takes.
    Flows(Ask<FlowView>, Arc<FlowFilter>),
    /// At stations that were learnt.
    Stations(Ask<StationView>),
    /// At neighbours on uplinks.
    Neighbours(Ask<NeighbourView>),
    /// At paths whose MTU was learnt.
    Paths(Ask<PathView>),
    /// At multicast groups.
    Groups(Ask<GroupView>),
    /// At what would become of a packet.
    Explain(FlowInput, oneshot::Sender<Explanation>),
    /// At live packets from now on; a tracer that comes back was refused.
    Trace(Box<Tracer>, oneshot::Sender<Option<Box<Tracer>>>),
    /// At none any more; the tracer comes back, to be freed.
    Untrace(oneshot::Sender<Option<Box<Tracer>>>),
}

impl View {
    /// Has a worker answer.
    pub(crate) fn show(self, worker: &mut Worker) {
        match self {
            View::Flows(ask, filter) => {
                ask.fill(|from, found| worker.view_flows(from, &filter, found));
            }
            View::Stations(ask) => ask.fill(|from, found| worker.view_stations(from, found)),
            View::Neighbours(ask) => ask.fill(|from, found| worker.view_neighbours(from, found)),
            View::Paths(ask) => ask.fill(|from, found| worker.view_paths(from, found)),
            View::Groups(ask) => ask.fill(|from, found| worker.view_groups(from, found)),
            View::Explain(input, answer) => {
                // Who asked may have gone.
                let _ = answer.send(worker.explain(&input));
            }
            View::Trace(tracer, answer) => {
                if let Err(Some(tracer)) = answer.send(worker.trace(tracer).err()) {
                    // Who asked has gone: it is freed here, once.
                    drop(tracer);
                }
            }
            View::Untrace(answer) => {
                let _ = answer.send(worker.untrace());
            }
        }
    }
}

impl<T> Ask<T> {
    fn fill(mut self, view: impl FnOnce(u32, &mut Vec<T>) -> Option<u32>) {
        let next = view(self.from, &mut self.found);
        // Who asked may have gone.
        let _ = self.answer.send((self.found, next));
    }
}

/// A running worker, as others reach it.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its id.
    pub id: WorkerId,
    /// The CPU that its thread is pinned to.
    pub cpu: usize,
    /// Its counters.
    pub counters: Arc<Counters>,
    pub(crate) commands: Sender<Command>,
    pub(crate) wakers: Arc<[Waker]>,
}

impl Link {
    /// One piece of its flows, so many at most.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn flows(
        &self,
        from: u32,
        found_max: usize,
        filter: &Arc<FlowFilter>,
    ) -> Result<Piece<FlowView>, Ending> {
        self.ask(from, found_max.clamp(1, FOUND_MAX), |ask| View::Flows(ask, filter.clone())).await
    }

    /// One piece of the stations that it has learnt.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn stations(&self, from: u32) -> Result<Piece<StationView>, Ending> {
        self.ask(from, PLACES_PER_PIECE as usize, View::Stations).await
    }

    /// One piece of the neighbours that it knows.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn neighbours(&self, from: u32) -> Result<Piece<NeighbourView>, Ending> {
        self.ask(from, FOUND_MAX, View::Neighbours).await
    }

    /// One piece of the paths whose MTU it has learnt.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn paths(&self, from: u32) -> Result<Piece<PathView>, Ending> {
        self.ask(from, FOUND_MAX, View::Paths).await
    }

    /// One piece of what it knows of multicast groups.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn groups(&self, from: u32) -> Result<Piece<GroupView>, Ending> {
        self.ask(from, FOUND_MAX, View::Groups).await
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn explain(&self, input: &FlowInput) -> Result<Explanation, Ending> {
        let (answer, answered) = oneshot::channel();
        self.look(View::Explain(*input, answer))?;
        answered.await.map_err(|_| Ending)
    }

    /// Has somebody look on; a tracer that comes back was refused, because somebody does already.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn trace(&self, tracer: Box<Tracer>) -> Result<Option<Box<Tracer>>, Ending> {
        let (answer, answered) = oneshot::channel();
        self.look(View::Trace(tracer, answer))?;
        answered.await.map_err(|_| Ending)
    }

    /// Nobody looks on any more; the tracer comes back, so that no worker frees it.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn untrace(&self) -> Result<oneshot::Receiver<Option<Box<Tracer>>>, Ending> {
        let (answer, answered) = oneshot::channel();
        self.look(View::Untrace(answer))?;
        Ok(answered)
    }

    fn look(&self, view: View) -> Result<(), Ending> {
        self.commands.send(Command::View(view)).map_err(|_| Ending)?;
        self.ring();
        Ok(())
    }

    /// Rings it: a worker that sleeps makes a turn.
    pub fn ring(&self) {
        self.wakers[self.id.index()].wake();
    }

    async fn ask<T>(
        &self,
        from: u32,
        found_max: usize,
        view: impl FnOnce(Ask<T>) -> View,
    ) -> Result<Piece<T>, Ending> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { from, found: Vec::with_capacity(found_max), answer };
        self.commands.send(Command::View(view(ask))).map_err(|_| Ending)?;
        self.ring();
        answered.await.map_err(|_| Ending)
    }
}

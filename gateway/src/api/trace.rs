//! Live packets as lines of JSON, for as long as somebody reads them.
//!
//! A tracer is attached to every worker, each with a ring that is read here at intervals: no worker
//! ever waits for a reader. The one hard constraint: whatever ends the stream (enough packets, a
//! client that went away, the end of the gateway), the tracers are taken off, and they are freed
//! here and not by a worker.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Query as Pairs;
use axum::extract::rejection::QueryRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use engine::trace::{Record, TraceFilter};
use engine::worker::{TraceReader, Tracer};
use futures_util::stream;

use super::answer::Refusal;
use super::query::Query;
use super::router::Shared;
use crate::control::StateView;
use crate::explain::words::Names;
use crate::trace::ask::{self, Wanted};
use crate::trace::model::Line;
use crate::trace::words;
use crate::view::Link;

/// Keys that are known.
const KEYS: [&str; 7] = ["from", "to", "endpoint", "uplink", "protocol", "port", "count"];

/// Records that one worker may be ahead of the reader. A record has about 2 KiB.
const RECORDS: usize = 256;

/// How long to wait when there is nothing to read: people see no delay, and at most
/// [`RECORDS`] per worker in this time are worked out, which bounds what a trace costs the packets.
const PAUSE: Duration = Duration::from_millis(20);

/// How long names of ports are taken from one look at the state.
const NAMES_FOR: Duration = Duration::from_secs(1);

/// True while the answer of a connection is a trace, which may take as long as it likes.
#[derive(Clone, Debug, Default)]
pub(super) struct Lasting(pub(super) Arc<AtomicBool>);

/// A trace under way.
struct Live {
    shared: Arc<Shared>,
    state: StateView,
    looked_at: Instant,
    readers: Vec<TraceReader>,
    _attached: Attached,
    began: Option<engine::Instant>,
    lost: u64,
    left: Option<u64>,
}

/// Workers that have a tracer of ours.
#[derive(Default)]
struct Attached(Vec<Link>);

impl Drop for Attached {
    fn drop(&mut self) {
        for link in self.0.drain(..) {
            let Ok(answered) = link.untrace() else { continue };
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // The tracer is freed there.
                runtime.spawn(async move { drop(answered.await) });
            }
        }
    }
}

/// Answers `GET /v1/trace`.
pub(super) async fn trace(
    shared: Arc<Shared>,
    lasting: &Lasting,
    pairs: Result<Pairs<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Pairs(pairs) = pairs.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let wanted = wanted(&Query::new(pairs, &KEYS)?)?;
    let state = shared.state().await?;
    let filter = ask::filter(&wanted, &state.config)
        .map_err(|failure| Refusal { status: StatusCode::BAD_REQUEST, failure })?;
    let (readers, attached) = attach(&state, &filter).await?;
    lasting.0.store(true, Relaxed);
    let live = Live {
        shared,
        state,
        looked_at: Instant::now(),
        readers,
        _attached: attached,
        began: None,
        lost: 0,
        left: wanted.count,
    };
    let lines = stream::unfold(live, async |mut live| {
        let lines = live.next_lines().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), live))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn wanted(query: &Query) -> Result<Wanted, Refusal> {
    let text = |key: &str| query.get(key).map(str::to_owned);
    let port = match text("port").map(|port| port.parse::<u16>()) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => return Err(Refusal::bad("`port`").hint("a number up to 65535")),
    };
    let count = match text("count").map(|count| count.parse::<u64>()) {
        None => None,
        Some(Ok(count @ 1..)) => Some(count),
        Some(_) => return Err(Refusal::bad("`count`").hint("a number from 1")),
    };
    Ok(Wanted {
        from: text("from"),
        to: text("to"),
        endpoint: text("endpoint"),
        uplink: text("uplink"),
        protocol: text("protocol"),
        port,
        count,
    })
}

async fn attach(
    state: &StateView,
    filter: &TraceFilter,
) -> Result<(Vec<TraceReader>, Attached), Refusal> {
    let (mut readers, mut attached) = (Vec::new(), Attached::default());
    for link in &*state.workers {
        let (tracer, reader) = Tracer::new(filter.clone(), RECORDS);
        if link.trace(tracer).await?.is_some() {
            let error = "somebody traces already";
            return Err(Refusal::new(StatusCode::CONFLICT, error)
                .hint("one trace at a time: end the other `portolan trace`"));
        }
        readers.push(reader);
        attached.0.push(link.clone());
    }
    Ok((readers, attached))
}

impl Live {
    /// The next lines, as soon as there is one; `None`: there were enough.
    async fn next_lines(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            let mut records: Vec<Record> = Vec::new();
            for reader in &mut self.readers {
                records.extend(std::iter::from_fn(|| reader.next_record()));
            }
            records.sort_by_key(|record| record.at);
            let lost: u64 = self.readers.iter().map(TraceReader::lost).sum();
            if records.is_empty() && lost == self.lost {
                tokio::time::sleep(PAUSE).await;
                // A worker that has ended sends nothing more.
                if self.readers.iter().any(TraceReader::is_over) {
                    return None;
                }
                continue;
            }
            self.refresh().await?;
            let mut lines = Vec::new();
            for record in records {
                if self.left == Some(0) {
                    break;
                }
                self.left = self.left.map(|left| left - 1);
                let began = *self.began.get_or_insert(record.at);
                let names = Names { config: &self.state.config, tables: &self.state.tables };
                let line = Line::Packet(Box::new(words::told(names, &record, began)));
                push(&mut lines, &line);
            }
            if lost != self.lost {
                self.lost = lost;
                push(&mut lines, &Line::Lost { lost });
            }
            return Some(lines);
        }
    }

    /// Names follow reloads.
    async fn refresh(&mut self) -> Option<()> {
        if self.looked_at.elapsed() > NAMES_FOR {
            self.state = self.shared.state().await.ok()?;
            self.looked_at = Instant::now();
        }
        Some(())
    }
}

fn push(lines: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *lines, line).expect("keys are text and numbers are finite");
    lines.push(b'\n');
}

//! The order of the stages: what a packet of an unknown flow goes through.
//!
//! ```text
//! admit -> publish -> local -> bridge -> route -> policy -> nat -> mtu -> (forward)
//! ```
//!
//! The first stage that settles the packet's fate ends the walk. Nothing else decides.

use crate::fdb::Fdb;
use crate::flow::FlowInput;
use crate::paths::Paths;
use crate::stage::{
    Admit, Bridge, Cx, Decision, Local, Mtu, Nat, Policy, Publish, Route, Stage, Verdict,
};

/// The stages with their state.
#[derive(Debug)]
pub(crate) struct Stages {
    admit: Admit,
    publish: Publish,
    local: Local,
    pub(crate) bridge: Bridge,
    route: Route,
    policy: Policy,
    pub(crate) nat: Nat,
    pub(crate) mtu: Mtu,
}

impl Stages {
    pub(crate) fn new(fdb: Fdb, nat: Nat, paths: Paths) -> Stages {
        Stages {
            admit: Admit,
            publish: Publish,
            local: Local,
            bridge: Bridge { fdb },
            route: Route,
            policy: Policy,
            nat,
            mtu: Mtu { paths },
        }
    }

    /// Decides about a packet with this input. Also says which stage settled it: an index into
    /// [`STAGE_NAMES`], whose last one stands for "none, it is forwarded".
    pub(crate) fn decide(&mut self, input: &FlowInput, cx: &Cx) -> (Decision, Verdict, usize) {
        self.decide_again(input, None, cx)
    }

    /// The same for a flow that is there and holds this mapping.
    pub(crate) fn decide_again(
        &mut self,
        input: &FlowInput,
        held: Option<u32>,
        cx: &Cx,
    ) -> (Decision, Verdict, usize) {
        self.decide_seen(input, held, cx, &mut |_, _, _| {})
    }

    /// The same while somebody looks on: `seen` is told the name of each stage, its verdict, and
    /// what the decision is by then.
    pub(crate) fn decide_seen(
        &mut self,
        input: &FlowInput,
        held: Option<u32>,
        cx: &Cx,
        seen: &mut impl FnMut(&'static str, Verdict, &Decision),
    ) -> (Decision, Verdict, usize) {
        fn step<S: Stage>(
            stage: &mut S,
            input: &FlowInput,
            decision: &mut Decision,
            cx: &Cx,
            walked: &mut usize,
            seen: &mut impl FnMut(&'static str, Verdict, &Decision),
        ) -> Option<Verdict> {
            let verdict = stage.decide(input, decision, cx);
            seen(S::NAME, verdict, decision);
            match verdict {
                Verdict::Continue => {
                    *walked += 1;
                    None
                }
                settled => Some(settled),
            }
        }
        let mut decision = Decision::default();
        let (on, walked) = (&mut decision, &mut 0);
        let settled = step(&mut self.admit, input, on, cx, walked, seen)
            .or_else(|| step(&mut self.publish, input, on, cx, walked, seen))
            .or_else(|| {
                let verdict = self.nat.unmap(input, on, held, cx);
                seen(UNMAP, verdict, on);
                Some(verdict).filter(|verdict| *verdict != Verdict::Continue)
            })
            .or_else(|| step(&mut self.local, input, on, cx, walked, seen))
            .or_else(|| step(&mut self.bridge, input, on, cx, walked, seen))
            .or_else(|| step(&mut self.route, input, on, cx, walked, seen))
            .or_else(|| step(&mut self.policy, input, on, cx, walked, seen))
            .or_else(|| step(&mut self.nat, input, on, cx, walked, seen))
            .or_else(|| step(&mut self.mtu, input, on, cx, walked, seen));
        let stage = *walked;
        (decision, settled.unwrap_or(Verdict::Forward), stage)
    }
}

/// Name of the look at mappings for what comes from outside, which is counted as the stage after.
const UNMAP: &str = "unmap";

/// Names of the stages in their order, and of what is left when none of them objects.
pub(crate) const STAGE_NAMES: [&str; 9] = [
    Admit::NAME,
    Publish::NAME,
    Local::NAME,
    Bridge::NAME,
    Route::NAME,
    Policy::NAME,
    Nat::NAME,
    Mtu::NAME,
    "forward",
];

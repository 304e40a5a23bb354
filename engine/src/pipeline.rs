//! The order of the stages: what a packet of an unknown flow goes through.
//!
//! ```text
//! admit -> publish -> local -> bridge -> route -> policy -> nat -> (forward)
//! ```
//!
//! The first stage that settles the packet's fate ends the walk. Nothing else decides.

use crate::fdb::Fdb;
use crate::flow::FlowInput;
use crate::stage::{
    Admit, Bridge, Cx, Decision, Local, Nat, Policy, Publish, Route, Stage, Verdict,
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
}

impl Stages {
    pub(crate) fn new(fdb: Fdb, nat: Nat) -> Stages {
        Stages {
            admit: Admit,
            publish: Publish,
            local: Local,
            bridge: Bridge { fdb },
            route: Route,
            policy: Policy,
            nat,
        }
    }

    /// Decides about a packet with this input.
    pub(crate) fn decide(&mut self, input: &FlowInput, cx: &Cx) -> (Decision, Verdict) {
        let mut decision = Decision::default();
        let verdict = self.walk(input, &mut decision, cx);
        (decision, verdict)
    }

    fn walk(&mut self, input: &FlowInput, decision: &mut Decision, cx: &Cx) -> Verdict {
        fn step<S: Stage>(
            stage: &mut S,
            input: &FlowInput,
            decision: &mut Decision,
            cx: &Cx,
        ) -> Result<(), Verdict> {
            match stage.decide(input, decision, cx) {
                Verdict::Continue => Ok(()),
                settled => Err(settled),
            }
        }
        let walked = step(&mut self.admit, input, decision, cx)
            .and_then(|()| step(&mut self.publish, input, decision, cx))
            .and_then(|()| step(&mut self.local, input, decision, cx))
            .and_then(|()| step(&mut self.bridge, input, decision, cx))
            .and_then(|()| step(&mut self.route, input, decision, cx))
            .and_then(|()| step(&mut self.policy, input, decision, cx))
            .and_then(|()| step(&mut self.nat, input, decision, cx));
        walked.err().unwrap_or(Verdict::Forward)
    }

    /// Names of the stages, in order.
    pub(crate) const NAMES: [&'static str; 7] = [
        Admit::NAME,
        Publish::NAME,
        Local::NAME,
        Bridge::NAME,
        Route::NAME,
        Policy::NAME,
        Nat::NAME,
    ];
}

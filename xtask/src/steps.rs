//! Steps with a name, a time and counts, and the summary at the end.
//!
//! The last line on stdout is always `N passed, N failed`, alone: that is what CI reads. All steps
//! run, also after one has failed, so that one run shows everything that is wrong.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What a step counted. A step without tests of its own counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    /// One check that held.
    pub(crate) const ONE: Counts = Counts { passed: 1, failed: 0 };

    /// Both counts of both.
    pub(crate) fn plus(self, other: Counts) -> Counts {
        Counts { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// What became of one step.
#[derive(Debug)]
struct Report {
    name: String,
    time: Duration,
    counts: Counts,
    problem: Option<String>,
    /// What is to be read again at the end.
    remarks: Vec<String>,
}

/// The steps that have run so far.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    reports: Vec<Report>,
}

impl Steps {
    /// No step yet; the clock runs.
    pub(crate) fn start() -> Steps {
        Steps { started: Instant::now(), reports: Vec::new() }
    }

    /// Runs a step. An error counts as one failure; so does a step that counted nothing, because
    /// that has proven nothing.
    pub(crate) fn step(&mut self, name: &str, body: impl FnOnce() -> Result<Counts>) {
        self.remarking_step(name, |_| body());
    }

    /// The same for a step that leaves remarks, which the summary shows again below its line: what
    /// keeps only the end of our output keeps these.
    pub(crate) fn remarking_step(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Vec<String>) -> Result<Counts>,
    ) {
        println!("\n=== {name}");
        let started = Instant::now();
        let mut remarks = Vec::new();
        let (counts, problem) = match body(&mut remarks) {
            Ok(counts) if counts == Counts::default() => {
                (Counts { passed: 0, failed: 1 }, Some("ran no test".to_owned()))
            }
            Ok(counts) if counts.failed > 0 => (counts, Some("see its output above".to_owned())),
            Ok(counts) => (counts, None),
            Err(error) => (Counts { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        };
        let (name, time) = (name.to_owned(), started.elapsed());
        let report = Report { name, time, counts, problem, remarks };
        println!("=== {}", line(&report));
        self.reports.push(report);
    }

    /// Prints the summary; true if nothing failed.
    pub(crate) fn finish(self) -> bool {
        let total = self.reports.iter().fold(Counts::default(), |sum, r| sum.plus(r.counts));
        println!("\nsteps:");
        for report in &self.reports {
            println!("  {}", line(report));
            report.remarks.iter().for_each(|remark| println!("          {remark}"));
        }
        println!("total time {:.1} s\n", self.started.elapsed().as_secs_f64());
        println!("{} passed, {} failed", total.passed, total.failed);
        // A summary that nobody sees (a closed pipe) changes nothing in the exit code.
        let _ = std::io::stdout().flush();
        total.failed == 0
    }
}

fn line(report: &Report) -> String {
    let Report { name, time, counts: Counts { passed, failed }, problem, .. } = report;
    let seconds = time.as_secs_f64();
    match problem {
        None => format!("ok      {name}: {passed} passed, {seconds:.1} s"),
        Some(problem) => {
            format!("FAILED  {name}: {passed} passed, {failed} failed, {seconds:.1} s: {problem}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(body: impl FnOnce() -> Result<Counts>) -> bool {
        let mut steps = Steps::start();
        steps.step("before", || Ok(Counts::ONE));
        steps.step("sample", body);
        steps.finish()
    }

    #[test]
    fn steps_that_passed_make_a_run_that_passed() {
        assert!(after(|| Ok(Counts { passed: 3, failed: 0 })));
    }

    #[test]
    fn one_failed_test_or_error_fails_the_run() {
        assert!(!after(|| Ok(Counts { passed: 3, failed: 1 })));
        assert!(!after(|| Err(anyhow::anyhow!("no such program"))));
    }

    #[test]
    fn a_step_that_ran_no_test_fails_the_run() {
        assert!(!after(|| Ok(Counts::default())));
    }

    #[test]
    fn a_later_step_does_not_hide_an_earlier_failure() {
        let mut steps = Steps::start();
        steps.step("broken", || Err(anyhow::anyhow!("broken")));
        steps.step("fine", || Ok(Counts::ONE));
        assert!(!steps.finish());
    }
}

//! Instructions per packet, compared with the committed baseline.
//!
//! The bench `instructions` of `portolan-benches` runs under valgrind, each case once short and
//! once with [`PACKETS`] packets more; the difference, divided by that, is compared. The baseline,
//! `benches/baseline.json`, is one flat JSON object of names and instructions per packet. The one
//! hard constraint: both have the same names, so that no case vanishes unnoticed. A count may be at
//! most [`WORSE_RATIO_MAX`] times its baseline. Less is never an error; `cargo xtask bench --save`
//! keeps it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, run};
use crate::install;
use crate::steps::Counts;

const BASELINE: &str = "benches/baseline.json";

/// Packets that each case carries: 1,024 batches of 64.
const PACKETS: f64 = 65_536.0;

/// How much worse a count may be. The counts repeat exactly for one binary; a new toolchain or an
/// unrelated change of layout moves them by a per cent. Lower: noise fails the run. Higher: a load
/// or two per packet slips in with each commit.
const WORSE_RATIO_MAX: f64 = 1.03;

/// From this ratio down the baseline is worth keeping anew.
const BETTER_RATIO: f64 = 0.97;

type CountsByName = BTreeMap<String, f64>;

/// Measures and compares.
pub(crate) fn compare() -> Result<Counts> {
    let text = std::fs::read_to_string(Path::new(BASELINE))
        .with_context(|| format!("no {BASELINE}: cargo xtask bench --save writes it"))?;
    let baseline = parse_json(&text).with_context(|| BASELINE.to_owned())?;
    Ok(compare_with(&baseline, &measure()?))
}

/// Measures and keeps the result as the new baseline.
pub(crate) fn save() -> Result<Counts> {
    let measured = measure()?;
    std::fs::write(BASELINE, to_json(&measured))
        .with_context(|| format!("cannot write {BASELINE}"))?;
    println!("{BASELINE} holds {} counts", measured.len());
    Ok(Counts::ONE)
}

fn measure() -> Result<CountsByName> {
    let package = ["--package", "portolan-benches", "--bench", "instructions"];
    let mut command = cargo(&[&["bench", "--locked"], package.as_slice()].concat());
    command.env("GUNGRAUN_RUNNER", install::gungraun_runner()?);
    let measured = parse_output(&run(command)?.stdout)?;
    if measured.is_empty() {
        bail!("the bench printed no instruction count");
    }
    Ok(measured)
}

fn compare_with(baseline: &CountsByName, measured: &CountsByName) -> Counts {
    let mut counts = Counts::default();
    for (name, &value) in measured {
        let judged = judge(baseline.get(name).copied(), value);
        match judged {
            Ok(_) => counts.passed += 1,
            Err(_) => counts.failed += 1,
        }
        let (Ok(words) | Err(words)) = judged;
        println!("{name:<40} {value:>10.1}  {words}");
    }
    for name in baseline.keys().filter(|name| !measured.contains_key(*name)) {
        println!("{name:<40} {:>10}  FAILED: in {BASELINE}, but not measured any more", "-");
        counts.failed += 1;
    }
    counts
}

/// Says how a count stands to its baseline.
fn judge(baseline: Option<f64>, measured: f64) -> Result<String, String> {
    let Some(baseline) = baseline else {
        return Err(format!("FAILED: not in {BASELINE}; cargo xtask bench --save adds it"));
    };
    let change = format!("baseline {baseline:.1}, {:+.1} %", (measured / baseline - 1.0) * 100.0);
    if measured.is_nan() || measured > baseline * WORSE_RATIO_MAX {
        Err(format!("FAILED: {change}"))
    } else if measured < baseline * BETTER_RATIO {
        Ok(format!("{change}: better; keep it with cargo xtask bench --save"))
    } else {
        Ok(change)
    }
}

/// Reads what the runner prints: for each case a line `instructions::GROUP::BENCH CASE:(…)`, and
/// indented under it a line `Instructions: COUNT|…`.
fn parse_output(stdout: &str) -> Result<CountsByName> {
    let mut counts = CountsByName::new();
    let mut name = None;
    for line in stdout.lines() {
        if let Some(path) = line.strip_prefix("instructions::") {
            let case = path.rsplit("::").find(|part| part.contains(":(")).unwrap_or(path);
            let case = case.split(":(").next().unwrap_or_default();
            name = Some(case.replace(' ', "_"));
        } else if let Some(values) = line.trim().strip_prefix("Instructions:") {
            let count = values.split('|').next().and_then(positive);
            let count = count.with_context(|| format!("not a count: {line}"))?;
            let name = name.take().with_context(|| format!("a count without a case: {line}"))?;
            if counts.insert(name.clone(), count / PACKETS).is_some() {
                bail!("{name} was counted twice");
            }
        }
    }
    differences(&counts)
}

/// Of each case `NAME_long` and `NAME_short` what the packets between the two cost: set-up, which
/// both have, cancels out. A case without the other half is refused.
fn differences(counts: &CountsByName) -> Result<CountsByName> {
    counts
        .iter()
        .filter(|(name, _)| !name.ends_with("_short"))
        .map(|(name, long)| {
            let base = name.strip_suffix("_long").with_context(|| format!("{name}: no _long"))?;
            let short = counts.get(&format!("{base}_short"));
            let short = short.with_context(|| format!("{base}: no case {base}_short"))?;
            Ok((base.to_owned(), long - short))
        })
        .collect()
}

/// Reads one flat object of numbers, which is all the JSON that the baseline has.
fn parse_json(text: &str) -> Result<CountsByName> {
    let inside = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let inside = inside.context("expected one JSON object")?.trim();
    let pairs = inside.split(',').filter(|_| !inside.is_empty());
    pairs
        .map(|pair| {
            let problem = || format!("expected \"NAME\": NUMBER, found {}", pair.trim());
            let (name, value) = pair.split_once(':').with_context(problem)?;
            let name = name.trim().strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            Ok((name.with_context(problem)?.to_owned(), positive(value).with_context(problem)?))
        })
        .collect()
}

fn positive(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|&value: &f64| value.is_finite() && value > 0.0)
}

fn to_json(counts: &CountsByName) -> String {
    let pairs = counts.iter().map(|(name, value)| format!("  \"{name}\": {value:.1}"));
    format!("{{\n{}\n}}\n", pairs.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> CountsByName {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn a_count_may_be_three_per_cent_worse_and_no_more() {
        let baseline = counts(&[("l2_hit", 100.0)]);
        let compared = |value| compare_with(&baseline, &counts(&[("l2_hit", value)]));
        assert_eq!(compared(102.9), Counts { passed: 1, failed: 0 });
        assert_eq!(compared(103.1), Counts { passed: 0, failed: 1 });
        assert_eq!(compared(50.0), Counts { passed: 1, failed: 0 });
        assert_eq!(compared(f64::NAN), Counts { passed: 0, failed: 1 });
    }

    #[test]
    fn a_case_that_vanished_or_is_new_fails() {
        let both = counts(&[("l2_hit", 100.0), ("nat_hit", 150.0)]);
        let one = counts(&[("l2_hit", 100.0)]);
        assert_eq!(compare_with(&both, &one), Counts { passed: 1, failed: 1 });
        assert_eq!(compare_with(&one, &both), Counts { passed: 1, failed: 1 });
    }

    #[test]
    fn the_runners_output_is_read_per_packet() {
        let stdout = "instructions::per_packet::bridge short:(bridge_world(SHORT))\n  \
            Instructions:      6553600|N/A   (*********)\n  L1 Hits:  39037337|N/A\n\
            instructions::per_packet::bridge long:(bridge_world(LONG))\n  \
            Instructions:      9830400|6553600   (-50.0%)\n\nGungraun result: Ok.\n";
        let read = parse_output(stdout).ok();
        assert_eq!(read, Some(counts(&[("bridge", 50.0)])));
        let half = &stdout[..stdout.find("instructions::per_packet::bridge long").unwrap()];
        assert!(parse_output(&half.replace("short", "long")).is_err(), "one half of a case");
        for bad in ["  Instructions: 5|N/A", "instructions::a::b c:(1)\n  Instructions: many|N/A"] {
            assert!(parse_output(bad).is_err(), "{bad}");
        }
        assert!(parse_output(&[stdout, stdout].concat()).is_err(), "each case twice");
    }

    #[test]
    fn the_baseline_reads_as_it_was_written() {
        let both = counts(&[("l2_hit", 118.4), ("nat_hit", 190.0)]);
        assert_eq!(parse_json(&to_json(&both)).ok(), Some(both));
        assert_eq!(parse_json("{}").ok(), Some(CountsByName::new()));
        for bad in ["", "[]", "{\"a\"}", "{a: 1}", "{\"a\": x}"] {
            assert!(parse_json(bad).is_err(), "{bad}");
        }
    }
}

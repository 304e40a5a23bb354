//! What each drop reason means and what to do about it, in the words of the README.
//!
//! The README's table is the only place where this is written; it is part of the program. The one
//! hard constraint: every reason has its line, which a test sees to.

use engine::DropReason;

const README: &str = include_str!("../../README.md");

/// Meaning and advice.
pub fn of(reason: DropReason) -> (&'static str, &'static str) {
    let name = reason.name();
    let line = README.lines().find(|line| {
        let rest = line.strip_prefix("| `").and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with("` | "))
    });
    let mut cells = line.unwrap_or_default().split(" | ").skip(1);
    let mut cell = || cells.next().unwrap_or_default().trim_end_matches(" |");
    (cell(), cell())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_meaning_and_advice() {
        for &reason in DropReason::ALL {
            let (meaning, advice) = of(reason);
            assert!(!meaning.is_empty() && !advice.is_empty(), "{}", reason.name());
            assert!(!advice.contains('|'), "{advice}");
        }
        assert_eq!(of(DropReason::NoEndpoint).1, "check the address");
    }
}

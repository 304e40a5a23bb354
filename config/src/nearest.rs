//! Finds the name that was probably meant.
//!
//! Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours each
//! cost one. A name is offered only when it is near enough to be a slip of the finger.

/// The known name nearest to a misspelt one, if any is near.
pub fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Longer text is no slip of the finger, and its distance would cost time.
    if given.len() > 64 {
        return None;
    }
    let length = given.chars().count();
    let distance_max = (length / 3).max(1);
    known
        .into_iter()
        // A difference in length is a distance already.
        .filter(|name| name.chars().count().abs_diff(length) <= distance_max)
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let width = b.len() + 1;
    let mut cells = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let cell = |i: usize, j: usize| cells[i * width + j];
            cells[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substituted = cell(i - 1, j - 1) + usize::from(a[i - 1] != b[j - 1]);
                let mut least = substituted.min(cell(i - 1, j) + 1).min(cell(i, j - 1) + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(cell(i - 2, j - 2) + 1);
                }
                least
            };
        }
    }
    cells[cells.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["subnet", "subnets", "gateway", "mtu", "uplink"];
        assert_eq!(nearest("subnett", known), Some("subnet"));
        assert_eq!(nearest("gatewya", known), Some("gateway"));
        assert_eq!(nearest("MTU", known), Some("mtu"));
        assert_eq!(nearest("mut", known), Some("mtu"));
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), known), None);
    }
}

//! Memory that reading another dialect takes: proportional to the file.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use config::{Dialect, check_dialect};

fn apps(count: usize) -> String {
    let app = |index: usize| {
        format!(
            "{{\"id\": \"/app-{index}\", \"cmd\": \"run\", \"labels\": {{\"owner\": \"x\"}},\n \
             \"networks\": [{{\"mode\": \"container/bridge\"}}],\n \"container\": \
             {{\"portMappings\": [{{\"containerPort\": 80, \"name\": \"web\"}}]}}}}"
        )
    };
    format!("[{}]", (0..count).map(app).collect::<Vec<_>>().join(",\n"))
}

/// Most bytes that are held at once, per byte of the file.
fn bytes_per_byte(count: usize) -> f64 {
    let text = apps(count);
    let used = allocation_counter::measure(|| {
        check_dialect(Dialect::Marathon, "apps.json", &text, &[]).unwrap();
    });
    used.bytes_max as f64 / text.len() as f64
}

#[test]
fn memory_is_proportional_to_the_file() {
    let (small, large) = (bytes_per_byte(500), bytes_per_byte(5_000));
    println!("{small:.1} bytes per byte of 500 apps, {large:.1} of 5,000");
    assert!(large < 1.5 * small && large < 60.0, "{small:.1}, then {large:.1}");
}

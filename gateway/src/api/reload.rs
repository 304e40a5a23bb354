//! `POST /v1/reload`: the config file is read again, or asked what would change.
//!
//! The one hard constraint: what is refused has changed nothing, and says everything that is wrong.

use std::time::Instant;

use axum::http::StatusCode;
use config::{Config, Diagnostic};

use super::answer::{Refusal, finding};
use super::model::{Failure, Reload, ReloadRequest};
use crate::control::{Control, ReloadRefused};
use crate::difference;

/// Carries the request out. Waits for the supervisor: not for an async thread.
pub(super) fn reload(control: &Control, request: ReloadRequest) -> Result<Reload, Refusal> {
    if request.dry_run {
        return dry_run(control);
    }
    let report = control.reload().map_err(refused)?;
    Ok(Reload {
        dry_run: false,
        generation: report.generation,
        changes: report.changes,
        deferred: report.deferred,
        warnings: report.warnings.iter().map(finding).collect(),
        took_ms: report.took.as_secs_f64() * 1e3,
    })
}

/// Reads and checks the file, and compares it with what is in force.
fn dry_run(control: &Control) -> Result<Reload, Refusal> {
    let asked_at = Instant::now();
    let state = control.state()?;
    let source = state.source.as_deref().ok_or_else(|| refused(ReloadRefused::Unavailable))?;
    let next = Config::load_with(source, &state.config.leases())
        .map_err(|diagnostics| refused(ReloadRefused::Config(diagnostics)))?;
    Ok(Reload {
        dry_run: true,
        generation: state.tables.generation,
        changes: difference::changes(&state.config, &next),
        deferred: difference::deferred(&state.config, &next),
        warnings: next.warnings.iter().map(finding).collect(),
        took_ms: asked_at.elapsed().as_secs_f64() * 1e3,
    })
}

fn refused(why: ReloadRefused) -> Refusal {
    match why {
        ReloadRefused::Config(diagnostics) => wrong_config(&diagnostics),
        ReloadRefused::Impossible(reason) => Refusal::new(StatusCode::CONFLICT, reason)
            .hint("nothing has changed; put it right and reload again"),
        ReloadRefused::Unavailable => {
            let error = ReloadRefused::Unavailable.to_string();
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
        }
    }
}

fn wrong_config(diagnostics: &[Diagnostic]) -> Refusal {
    let failure = Failure {
        error: "the config is wrong; nothing has changed".to_owned(),
        hint: Some("`findings` says what and where; put it right and reload again".to_owned()),
        findings: diagnostics.iter().map(finding).collect(),
    };
    Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, failure }
}

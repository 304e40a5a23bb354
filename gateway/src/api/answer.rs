//! Answers of the API: JSON with the right status, also when something is wrong.
//!
//! The one hard constraint: every answer but the metrics is JSON, and every failure is an object
//! with `error` and, where something can be done, `hint`.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use config::Diagnostic;
use serde::Serialize;

use super::model::{Failure, Finding};
use crate::control::Ending;

/// A failed request.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) failure: Failure,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal { status, failure: Failure { error: error.into(), ..Failure::default() } }
    }

    pub(super) fn bad(error: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.failure.hint = Some(hint.into());
        self
    }

    /// Adds what was probably meant, if anything was.
    pub(super) fn meant(self, given: &str, known: &[&str]) -> Refusal {
        match config::nearest(given, known.iter().copied()) {
            Some(name) => self.hint(format!("did you mean `{name}`?")),
            None if known.is_empty() => self,
            None => self.hint(format!("known: {}", known.join(", "))),
        }
    }
}

impl From<Ending> for Refusal {
    fn from(_: Ending) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is ending")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json(self.status, &self.failure)
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut bytes = serde_json::to_vec(value).expect("keys are text and numbers are finite");
    bytes.push(b'\n');
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What an answer or a refusal becomes.
pub(super) fn respond(result: Result<impl Serialize, Refusal>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(refusal) => refusal.into_response(),
    }
}

/// A finding about the config, for programs and for people.
pub(super) fn finding(diagnostic: &Diagnostic) -> Finding {
    Finding {
        file: diagnostic.file.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        path: diagnostic.path.clone(),
        severity: diagnostic.severity.to_string(),
        message: diagnostic.message.clone(),
        text: format!("{diagnostic:#}"),
    }
}

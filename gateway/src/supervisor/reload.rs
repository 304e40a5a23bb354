//! Reload: from the config in force to the one that the file says now, all or nothing.
//!
//! The one hard constraint: what is refused has changed nothing.

use crossbeam::channel::Sender;

use super::Gateway;
use crate::control::{ReloadRefused, ReloadReport};
use crate::error::Error;

impl Gateway {
    /// Reads the file again.
    pub(super) fn reload(
        &mut self,
        answer: Sender<Result<ReloadReport, ReloadRefused>>,
    ) -> Result<(), Error> {
        self.reloads.refused += 1;
        let _ = answer.send(Err(ReloadRefused::Unavailable));
        Ok(())
    }
}

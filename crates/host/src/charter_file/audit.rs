//! The table `audit`.

use super::{Refused, nano, real};
use atoll_protocol::Audit;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditTable {
    share: f64,
    newcomer: u32,
    window: u32,
    jury: u32,
    tolerance: f64,
    probation: u32,
}

impl AuditTable {
    pub(super) fn into_audit(self) -> Result<Audit, Refused> {
        Ok(Audit {
            share: nano("audit.share", self.share)?,
            newcomer: self.newcomer,
            window: self.window,
            jury: self.jury,
            tolerance: nano("audit.tolerance", self.tolerance)?,
            probation: self.probation,
        })
    }

    pub(super) fn of(audit: &Audit) -> Self {
        Self {
            share: real(audit.share),
            newcomer: audit.newcomer,
            window: audit.window,
            jury: audit.jury,
            tolerance: real(audit.tolerance),
            probation: audit.probation,
        }
    }
}

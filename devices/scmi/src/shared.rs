//! What the halves of a device share: the agent and what stands behind its view. A lock is around it, because whoever drives
//! the simulation comes from a thread of his own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_scmi_protocols::{Agent, Notice, Point};

use crate::description::Description;
use crate::host::Host;

/// What the halves share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// What people call the points.
    pub(crate) names: BTreeMap<String, Point>,
}

/// The agent, and what it talks to.
pub(crate) struct Inner {
    pub(crate) agent: Agent,
    pub(crate) host: Host,
    pub(crate) notices: Vec<Notice>,
}

impl Shared {
    pub(crate) fn new(description: Description) -> Self {
        let Description { view, host, names } = description;
        Self { inner: Mutex::new(Inner { agent: Agent::new(view), host, notices: Vec::new() }), names }
    }

    /// The agent. Nobody keeps it for longer than a command takes.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

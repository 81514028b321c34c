//! What the control half has its worker do with the connections, which are the worker's.

use std::sync::mpsc::SyncSender;

use outboard_device::DeviceError;
use outboard_device::serde_json::Value;
use outboard_streams::{Door, Listener};

/// Something to be done, and where the answer goes.
pub(crate) struct Errand {
    pub(crate) job: Job,
    pub(crate) answer: SyncSender<Result<Value, DeviceError>>,
}

/// Something to be done.
pub(crate) enum Job {
    /// Lists the connections.
    Connections,
    /// Ends a connection.
    Close(u64),
    /// Connections that come in there are for a port of the guest.
    Listen(Box<Entrance>),
    /// None come in at this address any more.
    Unlisten(String),
    /// Ends all connections, and tells the guest by an event.
    Reset,
}

/// Where connections for the guest come in.
pub(crate) struct Entrance {
    /// What to call it.
    pub(crate) name: String,
    pub(crate) listener: Listener,
    /// The guest's port; `None`: the first line says it.
    pub(crate) port: Option<u32>,
    pub(crate) door: Door,
}

//! Requests in the hands of the thread that waits for adapters: an adapter takes its time, and a chip may stretch it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use outboard_device::{DeviceError, Parcel};

use crate::executor::Executor;
use crate::request::Request;

/// Something to be done.
pub(crate) enum Errand {
    /// Carry out requests, or refuse them.
    Carry { parcel: Parcel, requests: Vec<Request>, is_too_long: bool },
    /// The driver begins anew.
    Forget,
}

/// Where errands are handed in. The thread ends when all of these are gone.
#[derive(Clone)]
pub(crate) struct Errands(Sender<Errand>);

impl Errands {
    /// Starts the thread.
    ///
    /// # Errors
    /// The process may have no more threads.
    pub(crate) fn start(executor: Executor) -> Result<Self, DeviceError> {
        let (sender, receiver) = channel();
        thread::Builder::new()
            .name("i2c-errands".to_owned())
            .spawn(move || run(executor, &receiver))
            .map_err(|error| DeviceError::host("cannot start a thread for the adapters", error))?;
        Ok(Self(sender))
    }

    /// Has an errand done. Without a thread, the chains come back by themselves.
    pub(crate) fn run(&self, errand: Errand) {
        let _ = self.0.send(errand);
    }
}

fn run(mut executor: Executor, errands: &Receiver<Errand>) {
    for errand in errands {
        match errand {
            Errand::Forget => executor.forget(),
            Errand::Carry { mut parcel, is_too_long: true, .. } => executor.refuse(parcel.chains()),
            Errand::Carry { mut parcel, requests, .. } => executor.run(&requests, parcel.chains()),
        }
    }
}

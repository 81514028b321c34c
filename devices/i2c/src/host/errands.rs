//! Requests in the hands of the thread that waits for adapters: an adapter takes its time, and a chip may stretch it.

use outboard_device::{DeviceError, Errands, Mark, Parcel};

use crate::executor::Executor;
use crate::request::Request;

/// Something to be done. Chains come home by themselves when a parcel is dropped.
pub(crate) enum Errand {
    /// Carry out requests, or refuse them; or give them back if they were recalled.
    Carry { parcel: Parcel, mark: Mark, requests: Vec<Request>, is_too_long: bool },
    /// The driver begins anew.
    Forget,
}

/// Starts the thread.
///
/// # Errors
/// The process may have no more threads.
pub(crate) fn start(mut executor: Executor) -> Result<Errands<Errand>, DeviceError> {
    Errands::start("i2c-errands", move |errand| match errand {
        Errand::Forget => executor.forget(),
        Errand::Carry { parcel, mark, .. } if mark.is_recalled() => parcel.give_back(),
        Errand::Carry { mut parcel, is_too_long: true, .. } => executor.refuse(parcel.chains()),
        Errand::Carry { mut parcel, requests, .. } => executor.run(&requests, parcel.chains()),
    })
}

//! Requests in the hands of the thread that waits for adapters: an adapter takes its time, and a chip may stretch it.

use outboard_device::{Chain, DeviceError, Errands, Mark, Parcel};

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
        Errand::Carry { mut parcel, mark, requests, is_too_long } => {
            // What a program before this one had begun is known by the ring's records only: it cannot return to the ring.
            let is_recovered = parcel.chains().iter().any(Chain::is_recovered);
            if mark.is_recalled() && !is_recovered {
                parcel.give_back();
            } else if is_too_long {
                executor.refuse(parcel.chains());
            } else {
                executor.run(&requests, parcel.chains());
            }
        }
    })
}

//! What the devices of a process have in common, for [`crate::Housed`] programs and for those that have nothing.

use clap::Args;
use outboard_device::DeviceError;

use crate::Program;

/// Opens a device by its options, its name, and what it has in common with the others.
pub(crate) type Open<P, C> =
    fn(<P as Program>::Args, &str, &C) -> Result<<P as Program>::Device, DeviceError>;

/// How a process is furnished by options `A`, and a device opened in it.
pub(crate) struct House<P: Program, A, C> {
    pub(crate) furnish: fn(A) -> Result<C, DeviceError>,
    pub(crate) open: Open<P, C>,
}

/// No options.
#[derive(Debug, Args)]
pub(crate) struct Nothing {}

//! The program's own options.

use std::num::NonZeroU32;
use std::str::FromStr;

use outboard_daemon::DriveArgs;

use crate::address::{Addresses, ReadOnly};
use crate::host::PartSpec;

/// What is on the guest's bus.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct I2cOptions {
    /// Give the guest this adapter of the host: a number, a name or a path; of it, the addresses of a list: 0x50,0x68-0x6f,
    /// and 0x20=0x21 for a chip at 0x21 that the guest knows as 0x20 [can be given several times]
    #[arg(long, value_name = "BUS[:ADDRESSES]")]
    pub(crate) bus: Vec<BusSpec>,
    /// Refuse to write to these addresses of the guest, but for a register's number right before a read: of one byte, or of
    /// as many as are behind a slash, 0x50/2; with 0, nothing at all
    #[arg(long, value_name = "ADDRESSES[/BYTES]")]
    pub(crate) read_only: Option<ReadOnly>,
    /// Protect transfers of these addresses of the guest by SMBus's checksum
    #[arg(long, value_name = "ADDRESSES")]
    pub(crate) pec: Option<Addresses>,
    /// Give the guest chips, too, that a driver of the host has
    #[arg(long)]
    pub(crate) force: bool,
    /// Have adapters give up after so many milliseconds, in steps of 10 [default: theirs]
    #[arg(long, value_name = "MS")]
    pub(crate) timeout_ms: Option<NonZeroU32>,
    /// Have adapters try so many times more [default: theirs]
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Put a simulated part on the bus: eeprom[:SIZE]@ADDRESS[,page=N][,file=PATH], thermometer@ADDRESS,
    /// registers[:N]@ADDRESS [can be given several times; default, without --bus: eeprom@0x50 and thermometer@0x48]
    #[arg(long, value_name = "PART@ADDRESS")]
    pub(crate) simulate: Vec<PartSpec>,
    #[command(flatten)]
    pub(crate) drive: DriveArgs,
}

/// An adapter of the host, and what of it the guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BusSpec {
    pub(crate) name: String,
    /// `None`: everything.
    pub(crate) addresses: Option<Addresses>,
}

impl FromStr for BusSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, addresses) = match text.split_once(':') {
            Some((name, list)) => (name, Some(list.parse()?)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("an adapter has a number, a name or a path".to_owned());
        }
        Ok(Self { name: name.to_owned(), addresses })
    }
}

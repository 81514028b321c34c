//! An adapter of the host, by its character device. It is trusted; the chips behind it answer as they please.
//!
//! One that speaks I2C gets a transaction as it is; it fails as a whole, since the kernel does not say which message did.
//! One that speaks only SMBus, or an address that is to have a checksum, gets the call that is the same transaction, if
//! there is one.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use outboard_device::DeviceError;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::ioctl::{self, M_RD, M_TEN, Part, functions};
use super::smbus::{self, Move};
use crate::address::{Address, Addresses};
use crate::options::{BusSpec, I2cOptions};
use crate::transaction::Message;

/// Where adapters say how they are called.
const NAMES: &str = "/sys/class/i2c-dev";

/// See the module.
pub(super) struct Adapter {
    name: String,
    device: OwnedFd,
    functions: u64,
    /// What the guest gets of it; `None`: everything.
    addresses: Option<Addresses>,
    /// Of these addresses of the guest, transfers have a checksum.
    pec: Addresses,
    /// Chips that a driver of the host has are not left alone.
    force: bool,
}

impl Adapter {
    /// Opens one.
    pub(super) fn open(bus: &BusSpec, options: &I2cOptions) -> Result<Self, DeviceError> {
        let path = find(&bus.name, Path::new(NAMES))?;
        let failed =
            |error: Errno| DeviceError::host(format!("cannot open the adapter {}", path.display()), error);
        let device = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let refused = |error| DeviceError::host(format!("{} is no adapter", path.display()), error);
        let functions = ioctl::abilities(&device).map_err(refused)?;
        let pec = options.pec.clone().unwrap_or_default();
        if pec.iter().next().is_some() && functions & functions::PEC == 0 {
            return Err(DeviceError::Invalid(format!("{} cannot make checksums", path.display())));
        }
        let refused = |error| DeviceError::host(format!("the adapter {}", path.display()), error);
        if let Some(timeout) = options.timeout_ms {
            ioctl::set_timeout(&device, timeout.get().div_ceil(10) as usize).map_err(refused)?;
        }
        if let Some(retries) = options.retries {
            ioctl::set_retries(&device, retries as usize).map_err(refused)?;
        }
        let (name, addresses, force) = (path.display().to_string(), bus.addresses.clone(), options.force);
        Ok(Self { name, device, functions, addresses, pec, force })
    }

    /// The same with a descriptor of its own.
    pub(super) fn try_clone(&self) -> Result<Self, DeviceError> {
        let device = fcntl_dupfd_cloexec(&self.device, 0);
        let device = device.map_err(|error| DeviceError::host(self.name.clone(), error))?;
        let (name, addresses, pec) = (self.name.clone(), self.addresses.clone(), self.pec.clone());
        Ok(Self { name, device, functions: self.functions, addresses, pec, force: self.force })
    }

    /// Its path.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the guest finds it at an address.
    pub(super) fn has(&self, address: Address) -> bool {
        self.real(address).is_some()
    }

    fn real(&self, address: Address) -> Option<Address> {
        self.addresses.as_ref().map_or(Some(address), |list| list.of(address))
    }

    /// Carries out a transaction; returns how many messages are known to have gone well: all or none, unless the adapter
    /// says more.
    pub(super) fn transfer(&mut self, messages: &mut [Message]) -> usize {
        match self.try_transfer(messages) {
            Ok(good) => good,
            Err(error) => {
                tracing::debug!("{}: {error}", self.name);
                0
            }
        }
    }

    fn try_transfer(&self, messages: &mut [Message]) -> Result<usize, std::io::Error> {
        for message in messages.iter() {
            self.address(message.address)?;
        }
        let is_checked = |message: &Message| self.pec.of(message.address).is_some();
        if self.functions & functions::I2C == 0 || messages.iter().any(is_checked) {
            return self.by_smbus(messages).map(|()| messages.len());
        }
        let parts = messages.iter_mut().map(|message| {
            let real = self.real(message.address).unwrap_or(message.address);
            let read = if message.read { M_RD } else { 0 };
            let ten = if real.ten { M_TEN } else { 0 };
            Part { addr: real.bits, flags: read | ten, data: &mut message.data }
        });
        ioctl::rdwr(&self.device, parts)
    }

    /// Says who is meant, which fails for a chip that a driver of the host has.
    fn address(&self, address: Address) -> Result<(), std::io::Error> {
        let real = self.real(address).ok_or(Errno::NXIO)?;
        if real.ten && self.functions & functions::TEN_BIT == 0 {
            return Err(Errno::NXIO.into());
        }
        ioctl::set_ten_bit(&self.device, real.ten.into())?;
        match self.force {
            true => ioctl::set_address_by_force(&self.device, real.bits.into()),
            false => ioctl::set_address(&self.device, real.bits.into()),
        }
    }

    fn by_smbus(&self, messages: &mut [Message]) -> Result<(), std::io::Error> {
        let first = messages.first().map(|message| message.address).ok_or(Errno::INVAL)?;
        if messages.iter().any(|message| message.address != first) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let pec = self.pec.of(first).is_some();
        let moves: Vec<Move<'_>> = messages
            .iter()
            .map(|message| match message.read {
                true => Move::Read(message.data.len()),
                false => Move::Write(&message.data),
            })
            .collect();
        let call = smbus::call(&moves, self.functions, pec).ok_or(Errno::OPNOTSUPP)?;
        ioctl::set_pec(&self.device, pec.into())?;
        let mut data = call.data;
        ioctl::smbus(self.device.as_fd(), call.read, call.command, call.form as u32, &mut data)?;
        if let Some(message) = messages.last_mut().filter(|message| message.read) {
            smbus::brought(call, &data, &mut message.data);
        }
        Ok(())
    }
}

/// The character device of an adapter: by its number, its path, or the name that it says.
fn find(name: &str, names: &Path) -> Result<PathBuf, DeviceError> {
    if name.starts_with('/') {
        return Ok(name.into());
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(format!("/dev/i2c-{name}").into());
    }
    let failed = |error| DeviceError::host(format!("cannot look for the adapter {name:?}"), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(names).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|said| said.trim_end() == name) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => Err(DeviceError::Invalid(format!("no adapter is called {name:?}"))),
        _ => Err(DeviceError::Invalid(format!("several adapters are called {name:?}: use a number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapter_is_found_by_number_path_and_unique_name() {
        let directory = tempfile::tempdir().unwrap();
        for (entry, name) in [("i2c-0", "SMBus stub driver\n"), ("i2c-1", "twin\n"), ("i2c-7", "twin\n")] {
            let entry = directory.path().join(entry);
            fs::create_dir(&entry).unwrap();
            fs::write(entry.join("name"), name).unwrap();
        }
        let path = |name| find(name, directory.path()).ok().map(|path| path.display().to_string());
        let table = [
            ("3", Some("/dev/i2c-3")),
            ("/dev/other", Some("/dev/other")),
            ("SMBus stub driver", Some("/dev/i2c-0")),
            ("twin", None),
            ("nobody", None),
        ];
        for (name, expected) in table {
            assert_eq!(path(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_adapter_is_refused_at_the_start() {
        for name in ["/dev/null", "/nowhere"] {
            let bus = name.parse().unwrap();
            assert!(Adapter::open(&bus, &I2cOptions::default()).is_err(), "{name}");
        }
    }
}

//! What is on the guest's bus: adapters of the host, and parts that are simulated.
//!
//! Every address belongs to one of them. Messages to several of them cannot be one transaction: they are one after the
//! other, each with a start and a stop.

mod adapter;
pub(crate) mod errands;
mod ioctl;
mod parts;
mod simulated;
mod smbus;

use std::sync::Arc;

use outboard_daemon::Teller;
use outboard_device::DeviceError;

pub(crate) use parts::PartSpec;
pub(crate) use simulated::Simulated;

use self::adapter::Adapter;
use crate::address::Address;
use crate::executor::Bus;
use crate::options::I2cOptions;
use crate::transaction::Message;

/// See the module.
pub(crate) struct Host {
    pub(crate) simulated: Arc<Simulated>,
    adapters: Vec<Adapter>,
}

impl Host {
    /// Opens all that the options name.
    ///
    /// # Errors
    /// An adapter that cannot be opened; an address that two have.
    pub(crate) fn open(options: &I2cOptions, teller: &Teller) -> Result<Self, DeviceError> {
        let adapters: Result<Vec<Adapter>, _> =
            options.bus.iter().map(|bus| Adapter::open(bus, options)).collect();
        let adapters = adapters?;
        let mut parts = options.simulate.clone();
        if parts.is_empty() && adapters.is_empty() {
            for part in ["eeprom@0x50", "thermometer@0x48"] {
                parts.push(part.parse().map_err(DeviceError::Invalid)?);
            }
        }
        let host = Self { simulated: Arc::new(Simulated::open(&parts, teller.clone())?), adapters };
        host.addresses_are_unique()?;
        Ok(host)
    }

    fn addresses_are_unique(&self) -> Result<(), DeviceError> {
        for address in (0..0x80 + 0x400).map(Address::of_index) {
            let owners = self.adapters.iter().filter(|adapter| adapter.has(address)).count();
            if owners + usize::from(self.simulated.has(address)) > 1 {
                return Err(DeviceError::Invalid(format!(
                    "{address} is there twice: say which addresses of each adapter the guest gets"
                )));
            }
        }
        Ok(())
    }

    /// Whether it may be waited for.
    pub(crate) fn is_slow(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// The names of the adapters, for `status`.
    pub(crate) fn adapters(&self) -> Vec<&str> {
        self.adapters.iter().map(Adapter::name).collect()
    }

    /// The other end of what the executor sends, with descriptors of its own.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    pub(crate) fn bus(&self) -> Result<HostBus, DeviceError> {
        let adapters: Result<Vec<Adapter>, _> = self.adapters.iter().map(Adapter::try_clone).collect();
        Ok(HostBus { simulated: Arc::clone(&self.simulated), adapters: adapters? })
    }
}

/// What the executor uses of it.
pub(crate) struct HostBus {
    simulated: Arc<Simulated>,
    adapters: Vec<Adapter>,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Simulated,
    Adapter(usize),
}

impl HostBus {
    fn owner(&self, address: Address) -> Owner {
        if self.simulated.has(address) {
            return Owner::Simulated;
        }
        self.adapters.iter().position(|adapter| adapter.has(address)).map_or(Owner::Nobody, Owner::Adapter)
    }
}

impl Bus for HostBus {
    fn transfer(&mut self, messages: &mut [Message]) -> usize {
        let mut done = 0;
        while let Some(first) = messages.get(done) {
            let owner = self.owner(first.address);
            let rest = messages.get_mut(done..).unwrap_or_default();
            let count = rest.iter().take_while(|message| self.owner(message.address) == owner).count();
            let part = rest.get_mut(..count).unwrap_or_default();
            let good = match owner {
                Owner::Nobody => 0,
                Owner::Simulated => self.simulated.transfer(part),
                Owner::Adapter(nth) => self.adapters.get_mut(nth).map_or(0, |adapter| adapter.transfer(part)),
            };
            done += good;
            if good < count {
                break;
            }
        }
        done
    }
}

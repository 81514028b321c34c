//! The control half: what the device is, and whom its handlers have before them.

use std::sync::Arc;

use outboard_daemon::{Driven as _, Driver, Teller};
use outboard_device::defs::DeviceId;
use outboard_device::defs::i2c::F_ZERO_LENGTH_REQUEST;
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Errands, Features, Group, Profile, Recall};

use crate::address::ReadOnly;
use crate::executor::Executor;
use crate::handler::{I2cHandler, Place};
use crate::host::Host;
use crate::host::errands::{self, Errand};
use crate::options::I2cOptions;
use crate::status::Tallies;

/// Entries of the queue.
const QUEUE_SIZE: u16 = 64;

/// An I2C adapter.
pub struct I2c {
    profile: Profile,
    host: Host,
    read_only: ReadOnly,
    tallies: Arc<Tallies>,
    /// There from the first handler on, if adapters of the host are waited for.
    errands: Option<Errands<Errand>>,
    teller: Teller,
    /// What drives the simulated chips.
    _driver: Driver,
}

impl I2c {
    /// Opens what is on the bus.
    ///
    /// # Errors
    /// What the host refuses; an address that two have.
    pub fn open(options: &I2cOptions) -> Result<Self, DeviceError> {
        let profile =
            Profile::new(DeviceId::I2C, "i2c").feature(F_ZERO_LENGTH_REQUEST).queue("requestq", QUEUE_SIZE);
        let read_only = options.read_only.clone().unwrap_or_default();
        let teller = Teller::new()?;
        let host = Host::open(options, &teller)?;
        let driver = Driver::start(&options.drive, &teller, Arc::clone(&host.simulated) as _)?;
        let (tallies, errands) = (Arc::default(), None);
        Ok(Self { profile, host, read_only, tallies, errands, teller, _driver: driver })
    }

    fn executor(&self) -> Result<Executor, DeviceError> {
        Ok(Executor::new(Box::new(self.host.bus()?), self.read_only.clone(), Arc::clone(&self.tallies)))
    }

    /// Where requests are carried out.
    fn place(&mut self) -> Result<Place, DeviceError> {
        if !self.host.is_slow() {
            return Ok(Place::Here(self.executor()?));
        }
        let errands = match &self.errands {
            Some(errands) => errands.clone(),
            None => errands::start(self.executor()?)?,
        };
        self.errands = Some(errands.clone());
        Ok(Place::There(errands, Recall::default()))
    }
}

impl Device for I2c {
    type Handler = I2cHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<I2cHandler, DeviceError> {
        // VIRTIO 1.3, 5.16.3: the feature is mandatory. A driver without it says nothing of the way a request goes.
        if !agreed.has(F_ZERO_LENGTH_REQUEST) {
            return Err(DeviceError::Invalid(
                "the driver did not agree to VIRTIO_I2C_F_ZERO_LENGTH_REQUEST, without which it may not use the device"
                    .to_owned(),
            ));
        }
        self.teller.begin();
        Ok(I2cHandler::new(self.place()?))
    }

    /// A group that has only begun was another driver's.
    fn forget(&mut self, _: Group) {
        if let Some(errands) = &self.errands {
            errands.run(Errand::Forget);
        }
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        self.host.simulated.command(command, arguments)
    }

    fn status(&self) -> Value {
        let mut status = self.tallies.status();
        if let Some(status) = status.as_object_mut() {
            status.insert("adapters".to_owned(), json!(self.host.adapters()));
            status.insert("simulated".to_owned(), self.host.simulated.status());
        }
        status
    }
}

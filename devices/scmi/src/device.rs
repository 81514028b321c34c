//! The control half, and the program.

use std::sync::Arc;

use outboard_daemon::{Driven, Driver, Teller};
use outboard_device::defs::DeviceId;
use outboard_device::defs::scmi::VIRTIO_SCMI_F_P2A_CHANNELS;
use outboard_device::serde_json::Value;
use outboard_device::{Device, DeviceError, Errands, Features, Group, Profile};

use crate::description::Description;
use crate::handler::{Job, ScmiHandler, errands};
use crate::options::ScmiOptions;
use crate::shared::Shared;

/// Entries of each ring.
const RING: u16 = 256;

/// The SCMI device.
pub struct Scmi {
    profile: Profile,
    shared: Arc<Shared>,
    errands: Option<Errands<Job>>,
    _driver: Driver,
}

impl Scmi {
    /// Opens all that the options name.
    ///
    /// # Errors
    /// The description cannot be read or makes no sense, or what it names cannot be opened.
    pub fn open(options: &ScmiOptions) -> Result<Self, DeviceError> {
        let description = Description::open(options.description.as_deref(), &options.sysfs)?;
        let is_real = description.host.is_real();
        let teller = Teller::new()?;
        let shared = Arc::new(Shared::new(description, teller.clone()));
        let errands = is_real.then(|| errands(&shared)).transpose()?;
        let driver = Driver::start(&options.driven, &teller, Arc::clone(&shared) as Arc<dyn Driven>)?;
        let features = if options.no_notify { 0 } else { VIRTIO_SCMI_F_P2A_CHANNELS };
        let profile = Profile::new(DeviceId::SCMI, "scmi").feature(features);
        let profile = profile.queue("cmdq", RING).queue("eventq", RING);
        Ok(Self { profile, shared, errands, _driver: driver })
    }
}

impl Device for Scmi {
    type Handler = ScmiHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        self.shared.command(command, arguments)
    }

    fn status(&self) -> Value {
        self.shared.status()
    }

    fn forget(&mut self, _: Group) {
        self.shared.forget();
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<ScmiHandler, DeviceError> {
        self.shared.lock().agent.listen(agreed.has(VIRTIO_SCMI_F_P2A_CHANNELS));
        self.shared.teller.begin();
        Ok(ScmiHandler::new(Arc::clone(&self.shared), self.errands.clone()))
    }
}

/// The program `vhost-user-scmi`.
pub struct VhostUserScmi;

impl outboard_daemon::Program for VhostUserScmi {
    const NAME: &'static str = "vhost-user-scmi";
    const TYPE: &'static str = "scmi";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "Sensors, clocks, power, performance, resets and voltages for a guest";
    type Args = ScmiOptions;
    type Device = Scmi;

    fn open(options: ScmiOptions) -> Result<Scmi, DeviceError> {
        Scmi::open(&options)
    }
}

//! The control half, and the program.

use std::sync::Arc;

use outboard_daemon::{Driven, Driver, Teller};
use outboard_device::defs::DeviceId;
use outboard_device::defs::scmi::VIRTIO_SCMI_F_P2A_CHANNELS;
use outboard_device::serde_json::Value;
use outboard_device::{Device, DeviceError, Features, Group, Profile};

use crate::description::Description;
use crate::handler::{ScmiHandler, errands};
use crate::options::ScmiOptions;
use crate::shared::Shared;
use crate::verbs::Verbs;

/// Entries of each ring.
const RING: u16 = 256;

/// The SCMI device.
pub struct Scmi {
    profile: Profile,
    verbs: Arc<Verbs>,
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
        let verbs = Arc::new(Verbs { shared, errands });
        let driver = Driver::start(&options.driven, &teller, Arc::clone(&verbs) as Arc<dyn Driven>)?;
        let features = if options.no_notify { 0 } else { VIRTIO_SCMI_F_P2A_CHANNELS };
        let profile = Profile::new(DeviceId::SCMI, "scmi").feature(features);
        let profile = profile.queue("cmdq", RING).queue("eventq", RING);
        Ok(Self { profile, verbs, _driver: driver })
    }
}

impl Device for Scmi {
    type Handler = ScmiHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        self.verbs.command(command, arguments)
    }

    fn status(&self) -> Value {
        self.verbs.shared.status()
    }

    fn forget(&mut self, _: Group) {
        self.verbs.shared.forget();
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<ScmiHandler, DeviceError> {
        let Verbs { shared, errands } = &*self.verbs;
        shared.lock().agent.listen(agreed.has(VIRTIO_SCMI_F_P2A_CHANNELS));
        shared.teller.begin();
        Ok(ScmiHandler::new(Arc::clone(shared), errands.clone()))
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

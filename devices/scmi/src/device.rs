//! The control half, and the program.

use std::sync::Arc;

use outboard_device::defs::DeviceId;
use outboard_device::serde_json::Value;
use outboard_device::{Device, DeviceError, Features, Group, Profile};

use crate::description::Description;
use crate::handler::ScmiHandler;
use crate::options::ScmiOptions;
use crate::shared::Shared;

/// Entries of each ring.
const RING: u16 = 256;

/// The SCMI device.
pub struct Scmi {
    profile: Profile,
    shared: Arc<Shared>,
}

impl Scmi {
    /// Opens all that the options name.
    ///
    /// # Errors
    /// The description cannot be read or makes no sense, or what it names cannot be opened.
    pub fn open(options: &ScmiOptions) -> Result<Self, DeviceError> {
        let description = Description::open(options.description.as_deref(), &options.sysfs)?;
        let profile = Profile::new(DeviceId::SCMI, "scmi").queue("cmdq", RING).queue("eventq", RING);
        Ok(Self { profile, shared: Arc::new(Shared::new(description)) })
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

    fn handler(&mut self, _: Group, _: Features) -> Result<ScmiHandler, DeviceError> {
        self.shared.lock().agent.forget();
        Ok(ScmiHandler::new(Arc::clone(&self.shared)))
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

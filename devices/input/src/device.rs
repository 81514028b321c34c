//! The control half, and the program.

use std::sync::Arc;

use outboard_daemon::{Driver, Program, Teller};
use outboard_device::defs::DeviceId;
use outboard_device::defs::input::{CFG_UNSET, Config};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Keep, Patience, Profile};
use zerocopy::IntoBytes;

use crate::InputOptions;
use crate::config::Abilities;
use crate::handler::{Counters, InputHandler};
use crate::host::evdev::Source;
use crate::host::synthetic::Synthetic;
use crate::host::{self, Behind};
use crate::kept::Kept;

pub(crate) type Held = Keep<Kept>;

/// What both halves know.
pub(crate) struct Shared {
    pub(crate) abilities: Abilities,
    pub(crate) synthetic: Option<Arc<Synthetic>>,
    pub(crate) counters: Counters,
    /// Devices that are gone are waited for.
    pub(crate) waits: bool,
}

/// An input device.
pub struct Input {
    profile: Profile,
    config: Config,
    shared: Arc<Shared>,
    held: Arc<Held>,
    sources: usize,
    _driver: Option<Driver>,
}

impl Input {
    /// Opens what the options say.
    ///
    /// # Errors
    /// A device of the host cannot be opened; sources contradict each other; what is simulated cannot be driven.
    pub fn open(options: &InputOptions) -> Result<Self, DeviceError> {
        let Behind { abilities, sources, kinds } = Behind::open(options)?;
        let count = sources.len();
        let (first, again) = (std::sync::Mutex::new(Some(sources)), options.clone());
        let make = move || {
            let first = first.lock().ok().and_then(|mut first| first.take());
            let sources = first.map_or_else(|| host::sources(&again), Ok)?;
            Ok(Kept::new(sources))
        };
        let held = Arc::new(Keep::new(make)?);
        let teller = Teller::new()?;
        let synthetic = (!kinds.is_empty())
            .then(|| Arc::new(Synthetic::new(abilities.clone(), teller.clone(), Arc::clone(&held))));
        let driver = match &synthetic {
            Some(synthetic) => {
                let driven: Arc<Synthetic> = Arc::clone(synthetic);
                Some(Driver::start(&options.drive, &teller, driven)?)
            }
            None if options.drive.drive.is_some() || options.drive.script.is_some() => {
                return Err(DeviceError::Invalid("--drive and --script are for --synthetic".to_owned()));
            }
            None => None,
        };
        let config = abilities.config(CFG_UNSET, 0);
        let profile = Profile::new(DeviceId::INPUT, "input").queue("eventq", 64).queue("statusq", 64);
        let shared =
            Shared { abilities, synthetic, counters: Counters::default(), waits: options.evdev_wait };
        Ok(Self { profile, config, shared: Arc::new(shared), held, sources: count, _driver: driver })
    }
}

impl Device for Input {
    type Handler = InputHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    /// Only what is selected can be written. Some front ends write all of the space at once (QEMU), so the rest is looked over.
    fn write_config(&mut self, offset: u32, data: &[u8], _: &Patience<'_>) -> Result<(), DeviceError> {
        let room = size_of::<Config>();
        let at = usize::try_from(offset)
            .ok()
            .filter(|at| at.checked_add(data.len()).is_some_and(|end| end <= room));
        let at = at.ok_or(DeviceError::ReadOnlyConfig)?;
        let byte = |wanted: usize| wanted.checked_sub(at).and_then(|at| data.get(at)).copied();
        let (select, subsel) = (byte(0), byte(1));
        if select.is_none() && subsel.is_none() && !data.is_empty() {
            return Err(DeviceError::ReadOnlyConfig);
        }
        let Config { select: old, subsel: old_sub, .. } = self.config;
        self.config = self.shared.abilities.config(select.unwrap_or(old), subsel.unwrap_or(old_sub));
        Ok(())
    }

    fn forget(&mut self, _: Group) {
        self.held.with(Kept::forget);
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<InputHandler, DeviceError> {
        Ok(InputHandler::new(Arc::clone(&self.shared), self.held.take()?))
    }

    fn reset(&mut self) {
        self.config = self.shared.abilities.config(CFG_UNSET, 0);
    }

    fn disconnected(&mut self) {
        self.held.with(|kept| kept.sources.iter_mut().for_each(Source::release));
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match &self.shared.synthetic {
            Some(synthetic) => outboard_daemon::Driven::command(&**synthetic, command, arguments),
            None => Err(DeviceError::UnknownCommand(command.to_owned())),
        }
    }

    fn status(&self) -> Value {
        let counters = &self.shared.counters;
        json!({
            "name": String::from_utf8_lossy(&self.shared.abilities.name),
            "sources": self.sources,
            "frames": counters.frames.value(),
            "overruns": counters.overruns.value(),
            "caught_up": counters.caught_up.value(),
            "dropped": counters.dropped.value(),
            "refused": counters.refused.value(),
            "leds": self.shared.synthetic.as_ref().map(|synthetic| synthetic.leds()),
        })
    }
}

/// The program `vhost-user-input`.
pub struct VhostUserInput;

impl Program for VhostUserInput {
    const NAME: &'static str = "vhost-user-input";
    const TYPE: &'static str = "input";
    const FEATURES: &'static [&'static str] = &["evdev-path", "no-grab"];
    const DESCRIPTION: &'static str =
        "Keyboards, mice, tablets and touch screens of the host, or simulated ones";
    type Args = InputOptions;
    type Device = Input;

    fn open(options: InputOptions) -> Result<Input, DeviceError> {
        Input::open(&options)
    }
}

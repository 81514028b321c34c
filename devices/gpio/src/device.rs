//! The control half: what the device is, and the lines that its handlers have one after the other.

use std::sync::Arc;

use outboard_daemon::{Driven, Driver, Teller};
use outboard_device::defs::DeviceId;
use outboard_device::defs::gpio::{Config, F_IRQ};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Keep, Profile};
use zerocopy::IntoBytes as _;

use crate::handler::GpioHandler;
use crate::host::{Host, Simulated};
use crate::lines::Lines;
use crate::names;
use crate::options::GpioOptions;
use crate::request::Terms;

/// Entries of a queue.
const QUEUE_SIZE: u16 = 256;

/// A GPIO controller.
pub struct Gpio {
    profile: Profile,
    config: Config,
    terms: Terms,
    lines: Keep<Lines>,
    simulated: Option<Arc<Simulated>>,
    teller: Teller,
    /// What drives the simulated chip.
    _driver: Option<Driver>,
    /// The numbers of the lines on their chip, and the chip.
    chip: (String, Vec<u32>),
    holds_outputs: bool,
}

impl Gpio {
    /// Opens the chip.
    ///
    /// # Errors
    /// What the host refuses; lines that there are not; names that cannot be.
    pub fn open(options: &GpioOptions) -> Result<Self, DeviceError> {
        let teller = Teller::new()?;
        let host = Host::open(options, &teller)?;
        let names = names::block(host.lines.iter().map(|(_, name)| name.as_str()))?;
        let count = host.lines.len() as u16;
        let config = Config {
            ngpio: count.into(),
            padding: [0; 2],
            gpio_names_size: u32::try_from(names.len()).unwrap_or(u32::MAX).into(),
        };
        let features = if options.no_irq { 0 } else { F_IRQ };
        let profile = Profile::new(DeviceId::GPIO, "gpio").feature(features).queue("requestq", QUEUE_SIZE);
        let profile = if options.no_irq { profile } else { profile.queue("eventq", QUEUE_SIZE) };
        let is_read_only = |(number, _): &(u32, String)| {
            options.read_only.as_ref().is_some_and(|list| list.contains(*number))
        };
        let read_only = host.lines.iter().map(is_read_only).collect();
        let terms = Terms { names, read_only, interrupts: false };
        let simulated = host.simulated.clone();
        let driver = match &simulated {
            Some(chip) => Some(Driver::start(&options.drive, &teller, Arc::clone(chip) as Arc<dyn Driven>)?),
            None if options.drive.drive.is_some() || options.drive.script.is_some() => {
                return Err(DeviceError::Invalid("a chip of the host is not driven from here".to_owned()));
            }
            None => None,
        };
        let chip = (host.name.clone(), host.lines.iter().map(|(number, _)| *number).collect());
        let lines = Keep::new(move || Ok(Lines::new(host.chip()?, count)))?;
        let holds_outputs = options.hold_outputs;
        Ok(Self { profile, config, terms, lines, simulated, teller, _driver: driver, chip, holds_outputs })
    }
}

impl Device for Gpio {
    type Handler = GpioHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn forget(&mut self, _: Group) {
        self.lines.with(Lines::forget);
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<GpioHandler, DeviceError> {
        self.teller.begin();
        let terms = Terms { interrupts: agreed.has(F_IRQ), ..self.terms.clone() };
        Ok(GpioHandler::new(self.lines.take()?, terms))
    }

    fn disconnected(&mut self) {
        if !self.holds_outputs {
            self.lines.with(Lines::forget);
        }
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match &self.simulated {
            Some(chip) => chip.command(command, arguments),
            None => Err(DeviceError::UnknownCommand(command.to_owned())),
        }
    }

    fn status(&self) -> Value {
        let (chip, lines) = &self.chip;
        json!({ "chip": chip, "lines": lines, "names": !self.terms.names.is_empty() })
    }
}

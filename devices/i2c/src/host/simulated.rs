//! The simulated bus: parts at addresses, and whoever sets them from outside.
//!
//! Its lock is held for a transaction by the worker, and for a command by the control thread: that is what a simulation
//! may do. No adapter of the host has one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_daemon::{Driven, Teller};
use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};

use super::parts::{Part, PartSpec};
use crate::address::Address;
use crate::transaction::Message;

/// See the module.
pub(crate) struct Simulated {
    /// Who is there: constant.
    addresses: Vec<Address>,
    parts: Mutex<BTreeMap<Address, Place>>,
    teller: Teller,
}

/// A part where it is.
struct Place {
    part: Box<dyn Part>,
    /// It does not answer after so many more bytes.
    fails_after: Option<u64>,
}

impl Place {
    /// Whether it answers for another byte.
    fn answers(&mut self) -> bool {
        match &mut self.fails_after {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

impl Simulated {
    /// A bus with these parts.
    ///
    /// # Errors
    /// A file that cannot be opened; two parts at an address.
    pub(crate) fn open(specs: &[PartSpec], teller: Teller) -> Result<Self, DeviceError> {
        let mut parts = BTreeMap::new();
        for spec in specs {
            let place = Place { part: spec.open()?, fails_after: None };
            if parts.insert(spec.address, place).is_some() {
                return Err(DeviceError::Invalid(format!("two parts are at {}", spec.address)));
            }
        }
        Ok(Self { addresses: parts.keys().copied().collect(), parts: Mutex::new(parts), teller })
    }

    /// Whether a part is there.
    pub(crate) fn has(&self, address: Address) -> bool {
        self.addresses.contains(&address)
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Address, Place>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a transaction; returns how many messages went well.
    pub(crate) fn transfer(&self, messages: &mut [Message]) -> usize {
        let mut parts = self.parts();
        let mut good = 0;
        for message in messages.iter_mut() {
            if !parts.get_mut(&message.address).is_some_and(|place| converse(place, message)) {
                break;
            }
            good += 1;
        }
        for message in messages.iter().take(good).filter(|message| !message.read && message.data.len() > 1) {
            let Message { address, data, .. } = message;
            self.teller.tell(|| json!({ "event": "written", "address": address.to_string(), "data": data }));
        }
        for message in messages.iter().take(good + 1) {
            if let Some(place) = parts.get_mut(&message.address) {
                place.part.stop();
            }
        }
        good
    }

    /// What the parts are, for `status`.
    pub(crate) fn status(&self) -> Value {
        let parts = self.parts();
        let named =
            parts.iter().map(|(at, place)| json!({ "address": at.to_string(), "part": place.part.name() }));
        Value::Array(named.collect())
    }
}

impl Driven for Simulated {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        if !["set", "temperature", "dump", "fail"].contains(&command) {
            return Err(DeviceError::UnknownCommand(command.to_owned()));
        }
        let invalid = |what: &str| DeviceError::Invalid(format!("{command}: {what}"));
        let address = match arguments.get("address") {
            Some(Value::String(text)) => text.parse().map_err(|error: String| invalid(&error))?,
            Some(Value::Number(number)) => {
                number.to_string().parse().map_err(|error: String| invalid(&error))?
            }
            _ => return Err(invalid("address is missing")),
        };
        let mut parts = self.parts();
        let place = parts.get_mut(&address).ok_or_else(|| invalid(&format!("no part is at {address}")))?;
        let number = |key: &str| arguments.get(key).and_then(Value::as_u64);
        match command {
            "set" => {
                let register = number("register").ok_or_else(|| invalid("register is missing"))?;
                let value = number("value").ok_or_else(|| invalid("value is missing"))?;
                place.part.set(register, value).map_err(|what| invalid(&what))?;
            }
            "temperature" => {
                let celsius = arguments.get("celsius").and_then(Value::as_f64);
                let celsius = celsius.ok_or_else(|| invalid("celsius is missing"))?;
                place.part.set_temperature(celsius).map_err(|what| invalid(&what))?;
            }
            "fail" => {
                place.fails_after = match arguments.get("after") {
                    Some(Value::Null) | None => None,
                    Some(after) => {
                        Some(after.as_u64().ok_or_else(|| invalid("after is a number of bytes, or null"))?)
                    }
                };
            }
            _ => return Ok(json!({ "part": place.part.name(), "registers": place.part.dump() })),
        }
        Ok(Value::Null)
    }
}

/// A start, the address, and the bytes; false if the part does not acknowledge one.
fn converse(place: &mut Place, message: &mut Message) -> bool {
    if place.fails_after == Some(0) {
        return false;
    }
    place.part.start(message.read);
    for byte in &mut message.data {
        if !place.answers() {
            return false;
        }
        if message.read {
            *byte = place.part.read();
        } else if !place.part.write(*byte) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Simulated {
        let parts = ["eeprom@0x50", "thermometer@0x48", "registers:4@0x20"].map(|part| part.parse().unwrap());
        Simulated::open(&parts, Teller::new().unwrap()).unwrap()
    }

    fn write(address: u16, data: &[u8]) -> Message {
        Message { address: Address::seven(address), read: false, data: data.to_vec() }
    }

    fn read(address: u16, len: usize) -> Message {
        Message { address: Address::seven(address), read: true, data: vec![0; len] }
    }

    fn value(bus: &Simulated, command: &str, arguments: &Value) -> String {
        match bus.command(command, arguments) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn transaction_ends_at_the_first_that_nobody_answers() {
        let bus = bus();
        let mut messages = [write(0x50, &[0, 1, 2]), write(0x51, &[0]), read(0x50, 1)];
        assert_eq!(bus.transfer(&mut messages), 1);
        let mut messages = [write(0x50, &[0]), read(0x50, 2)];
        assert_eq!(bus.transfer(&mut messages), 2);
        assert_eq!(messages[1].data, [1, 2]);
        assert_eq!(bus.transfer(&mut [write(0x50, &[]), read(0x50, 0)]), 2);
    }

    #[test]
    fn commands_set_and_show_what_the_guest_reads() {
        let bus = bus();
        let table = [
            ("set", json!({"address": "0x20", "register": 1, "value": 7}), "null"),
            ("temperature", json!({"address": 0x48, "celsius": -0.5}), "null"),
            ("dump", json!({"address": "0x20"}), r#"{"part":"registers","registers":[0,7,0,0]}"#),
            ("set", json!({"address": "0x20", "register": 4, "value": 7}), "set: there is no register 4"),
            (
                "set",
                json!({"address": "0x20", "register": 0, "value": 256}),
                "set: 256 does not fit the register",
            ),
            ("set", json!({"address": "0x20"}), "set: register is missing"),
            ("set", json!({"address": "0x21", "register": 0, "value": 0}), "set: no part is at 0x21"),
            ("temperature", json!({"address": 0x20, "celsius": 1}), "temperature: it has none"),
            ("temperature", json!({"address": 0x48, "celsius": 1000}), "temperature: it takes -128 to 127.5"),
            ("fail", json!({"address": 0x48, "after": -1}), "fail: after is a number of bytes, or null"),
            ("dump", json!({}), "dump: address is missing"),
            ("boil", json!({}), r#"the device has no command "boil""#),
        ];
        for (command, arguments, answer) in table {
            assert_eq!(value(&bus, command, &arguments), answer, "{command} {arguments}");
        }
        let mut messages = [write(0x48, &[0]), read(0x48, 2)];
        assert_eq!(bus.transfer(&mut messages), 2);
        assert_eq!(messages[1].data, [0xff, 0x80]);
    }

    #[test]
    fn part_that_is_to_fail_stops_answering_where_it_was_told() {
        let bus = bus();
        value(&bus, "fail", &json!({"address": 0x50, "after": 3}));
        assert_eq!(bus.transfer(&mut [write(0x50, &[0, 1]), write(0x50, &[1, 2]), read(0x50, 1)]), 1);
        assert_eq!(bus.transfer(&mut [write(0x50, &[])]), 0);
        value(&bus, "fail", &json!({"address": 0x50, "after": null}));
        assert_eq!(bus.transfer(&mut [write(0x50, &[])]), 1);
    }
}

//! The commands of the control socket.

use outboard_daemon::Ranges;
use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};
use outboard_streams::{Address, Form, Token};

use crate::command::Job;
use crate::device::{Vsock, entrance};
use crate::options::{Forward, Listen};
use crate::rules::{Gate, Rules};

impl Vsock {
    /// Carries out a command.
    ///
    /// # Errors
    /// There is none of that name; what it is given makes no sense; the host refuses.
    pub(crate) fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match command {
            "connections" => {
                none_but(arguments, &[])?;
                self.send(Job::Connections)
            }
            "close" => {
                none_but(arguments, &["id"])?;
                let id = arguments.get("id").and_then(Value::as_u64);
                self.send(Job::Close(id.ok_or_else(|| invalid("close takes id, a number of connections"))?))
            }
            "reset" => {
                none_but(arguments, &[])?;
                self.send(Job::Reset)
            }
            "allow" | "deny" => self.gate(arguments, command == "allow"),
            "forward" => {
                none_but(arguments, &["port", "to"])?;
                let port = number(arguments, "port")?;
                let Forward { port, address } =
                    format!("{port}={}", text(arguments, "to")?).parse().map_err(invalid)?;
                self.setting.rules().forwards.insert(port, address);
                Ok(Value::Null)
            }
            "unforward" => {
                none_but(arguments, &["port"])?;
                let port = number(arguments, "port")?;
                let gone = self.setting.rules().forwards.remove(&port);
                gone.map(|_| Value::Null).ok_or_else(|| invalid(format!("port {port} is not forwarded")))
            }
            "listen" => {
                none_but(arguments, &["at", "port", "token-file"])?;
                let token = match arguments.get("token-file") {
                    Some(_) => format!(",token-file={}", text(arguments, "token-file")?),
                    None => String::new(),
                };
                let (at, port) = (text(arguments, "at")?, number(arguments, "port")?);
                let Listen { address, port, token_file } =
                    format!("{at}={port}{token}").parse().map_err(invalid)?;
                let token = token_file.as_deref().map(Token::read).transpose()?;
                let entrance = entrance(&address, Some(port), Form::Bytes, token)?;
                self.send(Job::Listen(Box::new(entrance)))
            }
            "unlisten" => {
                none_but(arguments, &["at"])?;
                let address: Address = text(arguments, "at")?
                    .parse()
                    .map_err(|error: outboard_streams::AddressError| invalid(error.to_string()))?;
                self.send(Job::Unlisten(address.to_string()))
            }
            _ => Err(DeviceError::UnknownCommand(command.to_owned())),
        }
    }

    fn gate(&self, arguments: &Value, allowed: bool) -> Result<Value, DeviceError> {
        none_but(arguments, &["ports", "in"])?;
        let ports: Ranges = text(arguments, "ports")?.parse().map_err(invalid)?;
        let into = match arguments.get("in") {
            None => false,
            Some(into) => into.as_bool().ok_or_else(|| invalid("in is true or false"))?,
        };
        let mut rules = self.setting.rules();
        let gate = if into { &mut rules.into } else { &mut rules.out };
        gate.set(ports, allowed)?;
        Ok(Value::Null)
    }
}

impl Rules {
    /// What `status` shows of them.
    pub(crate) fn show(&self) -> Value {
        let shown = |ports: &Option<Ranges>| ports.as_ref().map(Ranges::to_string);
        let since = |gate: &Gate| -> Value {
            let show =
                |(ports, allowed): &(Ranges, bool)| json!({ "ports": ports.to_string(), "allowed": allowed });
            gate.since.iter().map(show).collect()
        };
        let forwards = self.forwards.iter().map(|(port, to)| json!({ "port": port, "to": to.to_string() }));
        json!({
            "forwards": forwards.collect::<Vec<_>>(),
            "allow": shown(&self.out.allow),
            "deny": shown(&self.out.deny),
            "allow_in": shown(&self.into.allow),
            "deny_in": shown(&self.into.deny),
            "since": since(&self.out),
            "since_in": since(&self.into),
        })
    }
}

fn invalid(text: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(text.into())
}

/// An argument that is misspelt is told, and not left out.
fn none_but(arguments: &Value, known: &[&str]) -> Result<(), DeviceError> {
    let unknown = match arguments {
        Value::Null => None,
        Value::Object(all) => all.keys().find(|key| !known.contains(&key.as_str())),
        _ => return Err(invalid("arguments are an object")),
    };
    unknown.map_or(Ok(()), |key| Err(invalid(format!("there is no argument {key:?}"))))
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, DeviceError> {
    arguments.get(name).and_then(Value::as_str).ok_or_else(|| invalid(format!("{name}, a text, is needed")))
}

fn number(arguments: &Value, name: &str) -> Result<u32, DeviceError> {
    let number = arguments.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| invalid(format!("{name}, a number, is needed")))
}

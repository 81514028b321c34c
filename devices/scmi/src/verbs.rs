//! The commands of the control socket: to look at the points of the view, and to drive what is simulated.

use outboard_daemon::Driven;
use outboard_device::DeviceError;
use outboard_device::serde_json::{Map, Value, json};
use outboard_scmi_protocols::{FORCED, Platform, Point};

use crate::shared::{Inner, Shared};

fn invalid(reason: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(reason.into())
}

impl Driven for Shared {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let point = || self.point(arguments);
        match command {
            "points" => Ok(self.points()),
            "get" => Ok(json!({ "value": look(&mut self.lock(), point()?) })),
            "set" => {
                let (point, value) = (point()?, arguments.get("value").and_then(Value::as_i64));
                self.set(point, value.ok_or_else(|| invalid("set needs a value, a whole number"))?)
            }
            "fail" => {
                let on = arguments.get("on").is_none_or(|on| on.as_bool() == Some(true));
                self.lock().host.fail(point()?, on);
                Ok(Value::Null)
            }
            "request" => self.request(arguments),
            other => Err(DeviceError::UnknownCommand(other.to_owned())),
        }
    }
}

impl Shared {
    fn point(&self, arguments: &Value) -> Result<Point, DeviceError> {
        let name = arguments.get("point").and_then(Value::as_str);
        let name = name.ok_or_else(|| invalid("a point is needed: the command points lists them"))?;
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| invalid(format!("there is no {name}; the command points lists all")))
    }

    /// All points and what they are; null for those that cannot be read.
    fn points(&self) -> Value {
        let mut inner = self.lock();
        let points = self.names.iter().map(|(name, &point)| (name.clone(), look(&mut inner, point)));
        Value::Object(points.collect::<Map<_, _>>())
    }

    fn set(&self, point: Point, value: i64) -> Result<Value, DeviceError> {
        let mut inner = self.lock();
        if !inner.host.simulate(point, value) {
            return Err(invalid("it is not simulated, but the host's"));
        }
        let Inner { agent, host, notices } = &mut *inner;
        agent.changed(point, value, host, notices);
        self.post(notices);
        Ok(Value::Null)
    }

    /// Asks the guest for a state of the system.
    fn request(&self, arguments: &Value) -> Result<Value, DeviceError> {
        let state = match arguments.get("state").and_then(Value::as_str) {
            Some("shutdown") => 0,
            Some("cold-reset") => 1,
            Some("warm-reset") => 2,
            Some("suspend") => 4,
            _ => return Err(invalid("request needs a state: shutdown, cold-reset, warm-reset or suspend")),
        };
        let forced = if arguments.get("forced").and_then(Value::as_bool) == Some(true) { FORCED } else { 0 };
        let mut inner = self.lock();
        let Inner { agent, notices, .. } = &mut *inner;
        let heard = agent.request(state | forced, notices);
        self.post(notices);
        Ok(json!({ "heard": heard }))
    }
}

fn look(inner: &mut Inner, point: Point) -> Value {
    inner.host.read(point).map_or(Value::Null, Value::from)
}

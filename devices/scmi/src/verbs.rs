//! The commands of the control socket: to look at the points of the view, and to drive what is simulated.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use outboard_daemon::Driven;
use outboard_device::serde_json::{Map, Value, json};
use outboard_device::{DeviceError, Errands};
use outboard_scmi_protocols::{FORCED, Point};

use crate::handler::Job;
use crate::host::{Asked, Seen};
use crate::shared::{Inner, Shared};

/// How long the host may take to say what its points are; after that, they are what they were.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whoever carries out commands.
pub(crate) struct Verbs {
    pub(crate) shared: Arc<Shared>,
    /// Of a device on which something is the host's.
    pub(crate) errands: Option<Errands<Job>>,
}

fn invalid(reason: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(reason.into())
}

impl Driven for Verbs {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let point = || self.point(arguments);
        match command {
            "points" => Ok(self.points()),
            "get" => Ok(json!({ "value": self.values(&[point()?]).pop() })),
            "set" => {
                let (point, value) = (point()?, arguments.get("value").and_then(Value::as_i64));
                self.set(point, value.ok_or_else(|| invalid("set needs a value, a whole number"))?)
            }
            "fail" => {
                let on = arguments.get("on").is_none_or(|on| on.as_bool() == Some(true));
                self.shared.lock().host.fail(point()?, on);
                Ok(Value::Null)
            }
            "request" => self.request(arguments),
            other => Err(DeviceError::UnknownCommand(other.to_owned())),
        }
    }
}

impl Verbs {
    fn point(&self, arguments: &Value) -> Result<Point, DeviceError> {
        let name = arguments.get("point").and_then(Value::as_str);
        let name = name.ok_or_else(|| invalid("a point is needed: the command points lists them"))?;
        self.shared
            .names
            .get(name)
            .copied()
            .ok_or_else(|| invalid(format!("there is no {name}; the command points lists all")))
    }

    /// All points and what they are; null for those that cannot be read.
    fn points(&self) -> Value {
        let names = &self.shared.names;
        let points: Vec<Point> = names.values().copied().collect();
        let values = self.values(&points).into_iter().map(Value::from);
        Value::Object(names.keys().cloned().zip(values).collect::<Map<_, _>>())
    }

    /// What points are.
    fn values(&self, points: &[Point]) -> Vec<Option<i64>> {
        let distant: Vec<Point> = {
            let inner = self.shared.lock();
            points.iter().copied().filter(|&point| inner.host.distant(point).is_some()).collect()
        };
        if let Some(errands) = &self.errands
            && !distant.is_empty()
            && self.shared.begin_read()
        {
            let (told, read) = channel();
            errands.run(Job::Read(distant, told));
            // It ends with an error in any case.
            let _ = read.recv_timeout(PATIENCE);
        }
        let inner = self.shared.lock();
        points.iter().map(|&point| inner.host.last(point)).collect()
    }

    fn set(&self, point: Point, value: i64) -> Result<Value, DeviceError> {
        let mut inner = self.shared.lock();
        if !inner.host.simulate(point, value) {
            return Err(invalid("it is not simulated, but the host's"));
        }
        let Inner { agent, host, notices } = &mut *inner;
        let (now, mut asked) = (host.now(), Asked::default());
        agent.changed(point, value, &mut Seen::new(host, &mut asked, now), notices);
        self.shared.post(notices);
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
        let mut inner = self.shared.lock();
        let Inner { agent, notices, .. } = &mut *inner;
        let heard = agent.request(state | forced, notices);
        self.shared.post(notices);
        Ok(json!({ "heard": heard }))
    }
}

//! An agent with a view of one thing of each kind, on a platform that remembers.

use std::collections::BTreeMap;
use std::time::Duration;

use outboard_scmi_protocols::*;

/// What the points are, and what the clock says.
#[derive(Default)]
pub(crate) struct Remembers {
    pub(crate) points: BTreeMap<Point, i64>,
    pub(crate) now: Duration,
    pub(crate) fails: bool,
}

impl Platform for Remembers {
    fn read(&mut self, point: Point) -> Result<i64, Status> {
        if self.fails {
            Err(Status::HardwareError)
        } else {
            Ok(self.points.get(&point).copied().unwrap_or(0))
        }
    }

    fn write(&mut self, point: Point, value: i64) -> Result<(), Status> {
        if self.fails {
            return Err(Status::HardwareError);
        }
        self.points.insert(point, value);
        Ok(())
    }

    fn now(&self) -> Duration {
        self.now
    }
}

pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) platform: Remembers,
    pub(crate) notices: Vec<Notice>,
    pub(crate) room: usize,
}

pub(crate) fn point(what: What) -> Point {
    Point { what, id: 0 }
}

/// One thing of each kind with `rights`, and a sensor with axes beside the scalar.
pub(crate) fn view(rights: Rights) -> View {
    let levels = [(600, 20, 50), (1200, 60, 50), (1800, 150, 60)];
    let levels = levels.map(|(level, power, latency)| Level { level, power, latency }).to_vec();
    let axes = ["acc_X", "acc_Y", "acc_Z"].map(|name| Axis { name: name.to_owned() }).to_vec();
    View {
        agent: "vm7".to_owned(),
        power: vec![Power { name: "gpu".to_owned(), rights, tells: true }],
        system: Some(System { rights, timeout_ms: 5000 }),
        performance: vec![Performance {
            name: "cluster".to_owned(),
            rights,
            tells: true,
            levels,
            sustained: (1_200_000, 1200),
        }],
        clocks: vec![Clock {
            name: "a clock of a long name".to_owned(),
            rights,
            tells: true,
            rates: Steps::List((1..=40).map(|n| n * 1_000_000).collect()),
            latency: 7,
        }],
        sensors: vec![
            Sensor {
                name: "cpu".to_owned(),
                unit: 2,
                scale: -3,
                trip_points: 2,
                intervals: vec![Interval::millis(1000), Interval::millis(100)],
                range: Some((-40_000, 125_000, 100)),
                ..Sensor::default()
            },
            Sensor {
                name: "motion".to_owned(),
                unit: 0x59,
                scale: -6,
                axes,
                intervals: vec![Interval::millis(100)],
                ..Sensor::default()
            },
        ],
        resets: vec![Reset { name: "ethernet".to_owned(), rights, latency: Some(100) }],
        voltages: vec![Voltage {
            name: "vdd".to_owned(),
            rights,
            levels: Steps::Range([800_000, 1_200_000, 25_000]),
        }],
    }
}

impl Rig {
    pub(crate) fn new(rights: Rights) -> Self {
        let mut agent = Agent::new(view(rights));
        agent.listen(true);
        let points = [
            (What::MaxLevel, 1800),
            (What::MinLevel, 600),
            (What::Level, 1200),
            (What::Rate, 24_000_000),
            (What::Running, 1),
            (What::Reading(0), 42_000),
            (What::Microvolts, 1_000_000),
            (What::Mode, 7),
            (What::System, 3),
        ];
        let points = points.map(|(what, value)| (point(what), value)).into();
        Self { agent, platform: Remembers { points, ..Remembers::default() }, notices: Vec::new(), room: 132 }
    }

    /// The answer to a command, header included.
    pub(crate) fn raw(&mut self, request: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        self.agent.command(request, self.room, &mut self.platform, (&mut reply, &mut self.notices));
        reply
    }

    /// The status of a command and the bytes behind it.
    pub(crate) fn ask(&mut self, protocol: u8, message: u8, params: &[u32]) -> (i32, Vec<u8>) {
        let header = Header::new(protocol, message, Kind::Command, 0x2a5).0;
        let request: Vec<u8> =
            std::iter::once(&header).chain(params).flat_map(|word| word.to_le_bytes()).collect();
        let reply = self.raw(&request);
        assert_eq!(reply[..4], header.to_le_bytes(), "the header comes back");
        let status = i32::from_le_bytes(reply[4..8].try_into().unwrap());
        assert!(status == 0 || reply.len() == 8, "an error is a status and no more");
        (status, reply[8..].to_vec())
    }

    /// The words of an answer that is a success.
    pub(crate) fn words(&mut self, protocol: u8, message: u8, params: &[u32]) -> Vec<u32> {
        let (status, bytes) = self.ask(protocol, message, params);
        assert_eq!(status, 0, "{protocol:#x}/{message} {params:?}");
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    pub(crate) fn status(&mut self, protocol: u8, message: u8, params: &[u32]) -> i32 {
        self.ask(protocol, message, params).0
    }

    /// The notices since the last time, as words.
    pub(crate) fn told(&mut self) -> Vec<Vec<u32>> {
        let words = |notice: Notice| {
            notice.bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
        };
        self.notices.drain(..).map(words).collect()
    }
}

/// A name in a field of 16 bytes, as words.
pub(crate) fn short(name: &str) -> Vec<u32> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

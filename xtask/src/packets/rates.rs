//! How many packets go by the second: ours in turn with DPDK's own back end, under the same front end; and on a tap
//! interface, with Cloud Hypervisor's. AF_XDP on one end of a pair of virtual interfaces stands beside the tap interface.
//! Each back end has one CPU, and so has the front end; what the kernel does for a packet, it does on the back end's.
//!
//! Only ratios are worth anything, and on a virtual machine only those of one placement of the CPUs: see
//! [`crate::bench::placement`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cell::Rings;
use super::ours::Ours;
use super::testpmd::{Settings, Testpmd, has_huge_pages};
use super::{Options, Rig};
use crate::bench::fields;
use crate::bench::measure::median;
use crate::bench::placement::{self, Class};
use crate::bench::process::{Pins, Running};
use crate::namespace::Namespace;
use crate::workspace::output;

/// Bytes of each packet.
const SIZE: u16 = 64;

/// Until packets go as they will.
const WARM_UP: Duration = Duration::from_millis(700);

/// How long a back end may take to make its socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tap interface.
const TAP: &str = "rate0";

/// The two ends of a pair of interfaces: ours, and the host's.
const WIRE: [&str; 2] = ["wire0", "wire1"];

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Send,
    /// The same, and the back end reads what is sent, as DPDK's does.
    Read,
    Receive,
    Loop,
    /// Between two front ends.
    Switch,
    Tap,
    Xdp,
}

/// Whose back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Ours,
    Dpdk,
    CloudHypervisor,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    class: Option<Class>,
    /// Millions of packets a second.
    rate: f64,
    /// Of the back end, in microseconds for each packet.
    cpu: f64,
}

type Samples = BTreeMap<(Mode, usize, Whose), Vec<Sample>>;

impl Mode {
    const ALL: [Self; 7] =
        [Self::Send, Self::Read, Self::Receive, Self::Loop, Self::Switch, Self::Tap, Self::Xdp];

    fn name(self) -> &'static str {
        match self {
            Self::Send => "tx",
            Self::Read => "read",
            Self::Receive => "rx",
            Self::Loop => "loop",
            Self::Switch => "switch",
            Self::Tap => "tap",
            Self::Xdp => "af_xdp",
        }
    }

    fn peer(self) -> Whose {
        if self == Self::Tap { Whose::CloudHypervisor } else { Whose::Dpdk }
    }

    /// The host's end of the interface, if there is one.
    fn interface(self) -> Option<&'static str> {
        match self {
            Self::Tap => Some(TAP),
            Self::Xdp => Some(WIRE[1]),
            Self::Send | Self::Read | Self::Receive | Self::Loop | Self::Switch => None,
        }
    }

    /// What the front end does, and the back end if it is testpmd.
    fn forwarding(self) -> (&'static str, &'static str) {
        match self {
            Self::Send | Self::Read | Self::Tap | Self::Xdp => ("txonly", "rxonly"),
            Self::Receive => ("rxonly", "txonly"),
            Self::Loop | Self::Switch => ("io", "io"),
        }
    }

    fn ports(self) -> u16 {
        if self == Self::Switch { 2 } else { 1 }
    }
}

/// The kinds of rings, as the best front ends use them.
fn kinds() -> Vec<(&'static str, Rings)> {
    let rings = |packed, in_order, mergeable| Rings { packed, in_order, mergeable, pairs: 1 };
    vec![
        ("split", rings(false, true, false)),
        ("packed", rings(true, true, false)),
        ("split-mrg", rings(false, false, true)),
        ("packed-mrg", rings(true, false, true)),
    ]
}

/// A back end that runs.
enum BackEnd {
    Ours(Ours),
    Testpmd(Testpmd),
    Other(Running),
}

impl BackEnd {
    fn cpu(&self) -> f64 {
        match self {
            Self::Ours(ours) => ours.cpu(),
            Self::Testpmd(testpmd) => fields::cpu_seconds(testpmd.pid()).unwrap_or(0.0),
            Self::Other(running) => running.cpu(),
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.stop(),
            Self::Testpmd(testpmd) => testpmd.quit(),
            Self::Other(running) => {
                running.stop();
                Ok(())
            }
        }
    }
}

struct Rates<'a> {
    rig: &'a Rig<'a>,
    options: &'a Options,
    pins: Pins,
    cloud_hypervisor: Option<PathBuf>,
    namespace: Option<Namespace>,
    /// For AF_XDP: it takes privileges on the machine.
    of_root: Option<Namespace>,
}

/// Measures, and prints a table.
pub(super) fn rates(rig: &Rig<'_>, options: &Options) -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(
        options.cpu_front != options.cpu_back && options.cpu_front.max(options.cpu_back) < cpus,
        "front and back end need a CPU each: this machine lets us have {cpus}"
    );
    let pins = Pins { front: options.cpu_front, back: options.cpu_back, real_time: None };
    pins.require()?;
    let mut cloud_hypervisor = None;
    for program in &options.program {
        match program.split_once('=') {
            Some(("cloud-hypervisor-net", path)) => cloud_hypervisor = Some(PathBuf::from(path)),
            _ => bail!("--program takes cloud-hypervisor-net=PATH"),
        }
    }
    let namespace = Namespace::is_possible().then(|| Namespace::new(rig.workspace)).transpose()?;
    let of_root = Namespace::is_possible_of_root().then(|| Namespace::of_root(rig.workspace)).transpose()?;
    let rates = Rates { rig, options, pins, cloud_hypervisor, namespace, of_root };
    let mut samples = Samples::new();
    for round in 1..=options.rounds {
        for mode in Mode::ALL {
            for (kind, (name, rings)) in kinds().into_iter().enumerate() {
                if !options.wants(&format!("{} {name}", mode.name())) {
                    continue;
                }
                for whose in [Whose::Ours, mode.peer()] {
                    if !rates.has(mode, rings, whose) {
                        continue;
                    }
                    match rates.sample(mode, rings, whose) {
                        Ok(sample) => samples.entry((mode, kind, whose)).or_default().push(sample),
                        Err(error) => {
                            eprintln!("round {round}, {} {name}, {whose:?}: {error:#}", mode.name());
                        }
                    }
                }
            }
        }
    }
    println!("{}", table(&samples));
    let memory = if has_huge_pages() { "huge pages" } else { "ordinary pages (no huge ones are free)" };
    println!("Packets of {SIZE} bytes; testpmd has {memory}. Load average: {}.", fields::load());
    Ok(())
}

impl Rates<'_> {
    fn has(&self, mode: Mode, rings: Rings, whose: Whose) -> bool {
        match (mode, whose) {
            (Mode::Tap, Whose::CloudHypervisor) => self.cloud_hypervisor.is_some() && !rings.packed,
            (Mode::Tap, _) => self.namespace.is_some(),
            (Mode::Xdp, Whose::Dpdk) => false,
            _ => mode.interface().is_none() || self.namespace_of(mode).is_some(),
        }
    }

    /// Where a mode's interface is.
    fn namespace_of(&self, mode: Mode) -> Option<&Namespace> {
        if mode == Mode::Xdp { self.of_root.as_ref() } else { self.namespace.as_ref() }
    }

    fn sample(&self, mode: Mode, rings: Rings, whose: Whose) -> Result<Sample> {
        for port in 0..mode.ports() {
            let _ = std::fs::remove_file(self.rig.socket(port));
        }
        let _ = std::fs::remove_file(self.rig.control());
        if mode == Mode::Xdp {
            self.lay_wire()?;
        }
        let before = placement::look(&self.pins);
        let back = self.back_end(mode, rings, whose)?;
        let mut ports = Vec::new();
        for port in 0..mode.ports() {
            ports.push(format!("{},mac=02:00:00:00:00:0{}", rings.port(self.rig, port), port + 1));
        }
        let cpu = Some(self.options.cpu_front);
        let settings = Settings { cpu, ports, mode: mode.forwarding().0, pairs: 1, size: SIZE };
        let mut front = Testpmd::start(self.rig.workspace, &settings, &self.rig.log("front-end"))?;
        front.command(if mode.forwarding().0 == "io" { "start tx_first" } else { "start" })?;
        std::thread::sleep(WARM_UP);
        let first = self.received(mode, &mut front)?;
        let (begun, cpu) = (Instant::now(), back.cpu());
        std::thread::sleep(self.options.duration());
        let last = self.received(mode, &mut front)?;
        let (time, cpu) = (begun.elapsed().as_secs_f64(), back.cpu() - cpu);
        front.quit()?;
        back.stop()?;
        let after = placement::look(&self.pins);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let packets = last.saturating_sub(first) as f64;
        ensure!(packets > 0.0, "no packet went");
        Ok(Sample {
            class: before.filter(|_| before == after),
            rate: packets / time / 1e6,
            cpu: cpu / packets * 1e6,
        })
    }

    /// The packets so far, where they come out.
    fn received(&self, mode: Mode, front: &mut Testpmd) -> Result<u64> {
        if let Some(interface) = mode.interface() {
            let namespace = self.namespace_of(mode).context("no namespace")?;
            return Ok(namespace.interface(interface)?.received);
        }
        let mut packets = 0;
        for port in 0..mode.ports() {
            let port = front.port(port)?;
            packets += if mode.forwarding().0 == "txonly" { port.sent } else { port.received };
        }
        Ok(packets)
    }

    fn back_end(&self, mode: Mode, rings: Rings, whose: Whose) -> Result<BackEnd> {
        match whose {
            Whose::Ours => self.ours(mode),
            Whose::Dpdk => self.dpdk(mode),
            Whose::CloudHypervisor => self.cloud_hypervisor(rings),
        }
    }

    fn ours(&self, mode: Mode) -> Result<BackEnd> {
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(|&word| word.to_owned()).collect() };
        let size = format!("--generate={SIZE}");
        let (tap, wire) = (format!("--tap={TAP}"), format!("--interface={}", WIRE[0]));
        let mut arguments = match mode {
            Mode::Send => words(&["--backend=null"]),
            Mode::Read => words(&["--backend=null", "--touch"]),
            Mode::Receive => words(&["--backend=null", &size]),
            Mode::Loop => words(&["--backend=loop"]),
            Mode::Tap => words(&["--backend=tap", &tap]),
            Mode::Xdp => words(&["--backend=af_xdp", &wire]),
            Mode::Switch => words(&["--shared-threads=1"]),
        };
        if mode.interface().is_none() && mode != Mode::Switch {
            arguments.push("--poll=always".to_owned());
        }
        arguments.extend(self.options.ours.iter().cloned());
        let command = match mode {
            Mode::Switch => self.rig.switch(mode.ports(), &arguments),
            _ => self.rig.one(1, &arguments),
        };
        let place = mode.interface().zip(self.namespace_of(mode));
        let command = match place {
            Some((_, namespace)) => namespace.command(&command),
            None => command,
        };
        let sockets: Vec<_> = (0..mode.ports()).map(|port| self.rig.socket(port)).collect();
        let command = self.pins.command(Some(self.options.cpu_back), command);
        let ours = Ours::start(command, &sockets, &self.rig.control(), &self.rig.log("back-end"))?;
        if let Some((interface, namespace)) = place {
            namespace.ip(&format!("link set {interface} up"))?;
        }
        Ok(BackEnd::Ours(ours))
    }

    /// A new pair of interfaces, instead of the one before.
    fn lay_wire(&self) -> Result<()> {
        let namespace = self.of_root.as_ref().context("no namespace")?;
        let _ = namespace.ip(&format!("link del {}", WIRE[0]));
        let mut ip = Command::new("ip");
        ip.args(["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
        output(&mut namespace.command(&ip))?;
        namespace.ip(&format!("link set {} up", WIRE[0]))
    }

    fn dpdk(&self, mode: Mode) -> Result<BackEnd> {
        let port = |port| format!("net_vhost{port},iface={},queues=1", self.rig.socket(port).display());
        let settings = Settings {
            cpu: Some(self.options.cpu_back),
            ports: (0..mode.ports()).map(port).collect(),
            mode: mode.forwarding().1,
            pairs: 1,
            size: SIZE,
        };
        let mut testpmd = Testpmd::start(self.rig.workspace, &settings, &self.rig.log("back-end"))?;
        testpmd.command("start")?;
        Ok(BackEnd::Testpmd(testpmd))
    }

    fn cloud_hypervisor(&self, rings: Rings) -> Result<BackEnd> {
        let program = self.cloud_hypervisor.as_ref().context("no Cloud Hypervisor")?;
        ensure!(!rings.packed, "Cloud Hypervisor has no packed rings");
        let socket = self.rig.socket(0);
        let mut command = Command::new(program);
        command.arg("--net-backend").arg(format!(
            "ip=198.18.0.1,mask=255.255.255.0,socket={},num_queues=2,queue_size=256,tap={TAP}",
            socket.display()
        ));
        let namespace = self.namespace.as_ref().context("no namespace")?;
        let command = self.pins.command(Some(self.options.cpu_back), namespace.command(&command));
        let mut running = Running::start(command, &self.rig.log("back-end"))?;
        let start = Instant::now();
        while !socket.exists() {
            let is_over = running.ended()?.is_some() || start.elapsed() > PATIENCE;
            ensure!(!is_over, "Cloud Hypervisor's back end makes no socket");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(BackEnd::Other(running))
    }
}

/// The medians, for each placement by itself.
fn table(samples: &Samples) -> String {
    let mut text = String::from(
        "| way | rings | CPUs | ours, Mpps (µs of CPU each) | theirs | ours : theirs | measurements |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for mode in Mode::ALL {
        for (kind, (name, _)) in kinds().into_iter().enumerate() {
            for class in [Some(Class::Near), Some(Class::Far), None] {
                let of = |whose| {
                    let all = samples.get(&(mode, kind, whose)).into_iter().flatten();
                    let all: Vec<_> = all.filter(|sample| sample.class == class).collect();
                    let rate = median(all.iter().map(|sample| sample.rate))?;
                    let cpu = median(all.iter().map(|sample| sample.cpu))?;
                    Some((rate, cpu, all.len()))
                };
                let (ours, theirs) = (of(Whose::Ours), of(mode.peer()));
                if ours.is_none() && theirs.is_none() {
                    continue;
                }
                let shown = |figure: Option<(f64, f64, usize)>| {
                    figure.map_or_else(|| "–".to_owned(), |(rate, cpu, _)| format!("{rate:.3} ({cpu:.3})"))
                };
                let ratio = ours.zip(theirs).map(|(ours, theirs)| ours.0 / theirs.0);
                let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
                let count = |figure: Option<(f64, f64, usize)>| figure.map_or(0, |(_, _, count)| count);
                text.push_str(&format!(
                    "| {} | {name} | {} | {} | {} | {ratio} | {}, {} |\n",
                    mode.name(),
                    class.map_or("moving", Class::name),
                    shown(ours),
                    shown(theirs),
                    count(ours),
                    count(theirs)
                ));
            }
        }
    }
    text
}

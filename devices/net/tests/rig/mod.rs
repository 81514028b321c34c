//! The device behind a real socket, on a thread of its own, and networks of the host to try it in.
#![allow(dead_code, reason = "each test file is a program of its own and uses its part")]
#![allow(clippy::print_stdout, reason = "a test that cannot be run here says so")]

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use outboard_backend::{Backend, EngineChoice, Options as BackendOptions, Polling, Stop};
use outboard_device::DeviceError;
use outboard_frames::testing::sum;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions};
use outboard_frontend::{Format, Frontend, Options, Wishes};
use outboard_net::{NetOptions, Switches};
use rustix::net::{AddressFamily, SocketType};

/// Longer than anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The addresses of the host's end and of the guest's, and the UDP ports of both, the guest's first.
pub(crate) const HOST: [u8; 4] = [10, 9, 0, 1];
pub(crate) const GUEST: [u8; 4] = [10, 9, 0, 2];
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
pub(crate) const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
pub(crate) const PORTS: [u16; 2] = [6000, 5000];
/// Says that the namespace is there.
const INSIDE: &str = "OUTBOARD_TEST_NAMESPACE";

/// A device with these options, on a switch if it is to be on one.
///
/// # Errors
/// What the program would say to them.
pub(crate) fn open<S: AsRef<str>>(switches: &Switches, args: &[S]) -> Result<outboard_net::Net, DeviceError> {
    let command = NetOptions::augment_args(clap::Command::new("net").no_binary_name(true));
    let matches = command.try_get_matches_from(args.iter().map(AsRef::as_ref));
    let matches = matches.map_err(|error| DeviceError::Invalid(error.to_string()))?;
    outboard_net::Net::open_in(&NetOptions::from_arg_matches(&matches).unwrap(), "net", switches)
}

/// A front end before a device. The thread ends with the connection.
pub(crate) fn serve(device: outboard_net::Net, options: BackendOptions) -> (Frontend, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        Backend::new(device, options).unwrap().serve(theirs, &Stop::new().unwrap()).unwrap();
    });
    (connect(ours), thread)
}

/// A front end at a socket.
pub(crate) fn connect(stream: UnixStream) -> Frontend {
    Frontend::from_stream(stream, Options { timeout: LONG, ..Options::default() }).unwrap()
}

/// A driver that wants this format and these features of the device.
pub(crate) fn driver(format: Format, device_features: u64) -> DriverOptions {
    let wishes = Wishes { format, device_features, ..DriverOptions::default().wishes };
    DriverOptions { wishes, ..DriverOptions::default() }
}

/// A driver before a device with these options.
pub(crate) fn driven<S: AsRef<str>>(args: &[S], driver: &DriverOptions) -> (Net, JoinHandle<()>) {
    let (frontend, thread) = serve(open(&Switches::default(), args).unwrap(), BackendOptions::default());
    (Net::open(frontend, driver).unwrap(), thread)
}

/// A front end before a device with these options, which has a MAC address and an MTU.
pub(crate) fn before(args: &[&str], engine: EngineChoice, polling: Polling) -> (Frontend, JoinHandle<()>) {
    before_on(&Switches::default(), args, engine, polling)
}

/// [`before`], for a device that may be a port of one of these switches.
pub(crate) fn before_on(
    switches: &Switches,
    args: &[&str],
    engine: EngineChoice,
    polling: Polling,
) -> (Frontend, JoinHandle<()>) {
    let args = [&["--mac=52:54:00:12:34:56", "--mtu=9000", "--queue-size=256"], args].concat();
    let options = BackendOptions { engine, polling, ..BackendOptions::default() };
    serve(open(switches, &args).unwrap(), options)
}

/// Runs a test in a network namespace of its own, in which `inside` is what there is to test; where none can be made
/// (`unshare`, `ip` and /dev/net/tun are needed), it says so.
pub(crate) fn in_namespace(test: &str, inside: impl FnOnce()) {
    let probe = ["tuntap", "add", "dev", "probe", "mode", "tap"];
    in_namespace_with(&["--user", "--map-root-user", "--net"], &probe, test, inside);
}

/// The same in namespaces that `unshare` makes with these options, if `ip` can make an interface there.
pub(crate) fn in_namespace_with(unshare: &[&str], probe: &[&str], test: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let probed = Command::new("unshare").args(unshare).arg("ip").args(probe).output();
    if !probed.is_ok_and(|output| output.status.success()) {
        let (unshare, probe) = (unshare.join(" "), probe.join(" "));
        println!("skipped: no namespace with such an interface here (unshare {unshare} ip {probe})");
        return;
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// [`in_namespace`], for tests of AF_XDP sockets: they are had by root of the machine only.
pub(crate) fn in_xdp_namespace(test: &str, inside: impl FnOnce()) {
    match rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => in_namespace_with(&["--net"], &["link", "add", "left", "type", "veth"], test, inside),
        Err(error) => println!("skipped: no AF_XDP sockets here (root, CONFIG_XDP_SOCKETS): {error}"),
    }
}

/// Makes the interfaces `left` and `right`, two ends of a wire, each with so many queues. Nobody but the test sends there.
pub(crate) fn make_wire(queues: u32) {
    let number = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add left {number} type veth peer name right {number}"));
    for end in ["left", "right"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1").unwrap();
        ip(&format!("link set {end} up"));
    }
}

/// Calls the program of that name.
pub(crate) fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// Makes a tap interface as the host's end, which knows the guest.
pub(crate) fn make_tap(name: &str, mode: &str) {
    ip(&format!("tuntap add dev {name} mode tap{mode}"));
    ip(&format!("link set {name} address 02:00:00:00:09:01 up"));
    ip(&format!("address add 10.9.0.1/24 dev {name}"));
    ip(&format!("neighbour add 10.9.0.2 lladdr 02:00:00:00:09:02 dev {name} nud permanent"));
}

/// A datagram of the guest for the host, with its checksum, or with the start of it.
pub(crate) fn datagram(payload: &[u8], complete: bool) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((len + 20).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend([GUEST, HOST].as_flattened());
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut udp = PORTS.map(u16::to_be_bytes).concat();
    udp.extend(len.to_be_bytes());
    udp.extend(pseudo(&ip[12..], len).to_be_bytes());
    udp.extend(payload);
    if complete {
        let checksum = !sum(&udp);
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &ip, &udp].concat()
}

/// The sum of what UDP counts beside the datagram.
pub(crate) fn pseudo(addresses: &[u8], len: u16) -> u16 {
    sum(&[addresses, &[0, 17], &len.to_be_bytes()].concat())
}

/// Whether a frame is a datagram for the guest: the host has things to say of its own.
pub(crate) fn is_for_guest(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame[30..34] == GUEST && frame[23] == 17
}

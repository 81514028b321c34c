//! Scenarios of the socket device: programs of a guest and of its host talk, and every byte is compared.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bench::{Bench, Stub};
use super::vm::Vm;
use crate::control::command_to;

/// What goes over each connection, in bytes.
const BYTES: usize = 3 << 20;
/// How long either end of a connection says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a guest is paused, and for how long.
const PAUSES: usize = 6;
const PAUSE: Duration = Duration::from_millis(80);

/// Both directions of connecting, both types, halves, many connections, refusals; and a reset, of which QEMU's stub hands on
/// no event.
pub(super) fn vsock(bench: &mut Bench) -> Result<()> {
    let path = bench.vsock(Stub::Own)?;
    let listener = UnixListener::bind(path.with_file_name("vm_1234"))?;
    // It answers when it has got everything.
    let program = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let mut vm = bench.boot("vsock", vec![("OUTBOARD_BYTES", BYTES.to_string())])?;
    vm.await_value("ready")?;
    program.join().ok().context("the program of the host failed")??;
    from_host(&path).context("from the host to the guest")?;
    ensure!(from_host_to_nobody(&path)?, "a connection to nobody was accepted");
    vm.type_line("done")?;
    vm.await_value("connected")?;
    command_to(&bench.control(), "reset", &json!({}))?;
    vm.finish()
}

/// The guest stands still again and again while bytes are on their way.
pub(super) fn pause(bench: &mut Bench) -> Result<()> {
    let path = bench.vsock(Stub::Own)?;
    let listener = UnixListener::bind(path.with_file_name("vm_1234"))?;
    let (pauses, asked) = channel();
    let program = thread::spawn(move || give_back(&listener, &pauses));
    let mut vm = bench.boot("vsock-pause", vec![("OUTBOARD_BYTES", BYTES.to_string())])?;
    for () in asked {
        vm.qmp()?.execute("stop")?;
        thread::sleep(PAUSE);
        vm.qmp()?.execute("cont")?;
    }
    program.join().ok().context("the program of the host failed")??;
    vm.finish()
}

/// Gives back what comes, and asks for a pause now and then.
fn give_back(listener: &UnixListener, pauses: &Sender<()>) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut room = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let len = stream.read(&mut room)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(room.get(..len).unwrap_or_default())?;
        let before = at * PAUSES / BYTES;
        at += len;
        if at * PAUSES / BYTES > before {
            // Nobody waits for it when something else has failed.
            let _ = pauses.send(());
        }
    }
}

/// All three queues: the guest is told that its connections are gone, and makes others.
pub(super) fn generic(bench: &mut Bench) -> Result<()> {
    bench.vsock(Stub::Bare)?;
    let packed = ("OUTBOARD_PACKED", u8::from(bench.packed()).to_string());
    let mut vm = bench.boot("vsock-generic", vec![("OUTBOARD_BYTES", BYTES.to_string()), packed])?;
    vm.await_value("connected")?;
    command_to(&bench.control(), "reset", &json!({}))?;
    vm.finish()
}

/// The back end over a kernel's own AF_VSOCK: it runs inside the guest.
pub(super) fn host(bench: &mut Bench) -> Result<()> {
    bench.boot("vsock-host", vec![("OUTBOARD_BYTES", BYTES.to_string())])?.finish()
}

/// The tests of Linux's own, between two guests, each in both roles.
pub(super) fn linux_tests(bench: &mut Bench) -> Result<()> {
    let sockets = bench.vsock_siblings()?;
    let wire = bench.socket("wire.sock");
    let mut machines = Vec::new();
    for (number, (name, socket)) in ["left", "right"].into_iter().zip(&sockets).enumerate() {
        bench.plug_vsock(socket, Stub::Own);
        bench.wire(&wire, number == 0);
        let settings = vec![
            ("OUTBOARD_NUMBER", (number + 1).to_string()),
            ("OUTBOARD_PEER", (2 - number).to_string()),
            ("OUTBOARD_PEER_CID", (4 - number).to_string()),
        ];
        machines.push(bench.boot_as(name, "vsock-test", settings)?);
    }
    machines.iter_mut().rev().try_for_each(Vm::finish)
}

/// The same between a guest and programs of its host, who have them by UNIX sockets; each in both roles.
pub(super) fn linux_tests_on_host(bench: &mut Bench) -> Result<()> {
    let path = bench.vsock(Stub::Own)?;
    let (control, to_guest) = free_ports()?;
    bench.user_network(to_guest, 1235);
    let mut server = bench.vsock_test(&path, "server", control)?;
    let mut vm = bench.boot("vsock-test-unix", vec![("OUTBOARD_CONTROL", control.to_string())])?;
    vm.await_value("serving")?;
    let mut client = bench.vsock_test(&path, "client", to_guest)?;
    // What the guest says of them first: it has them all by name.
    vm.finish()?;
    for (role, program) in [("server", &mut server), ("client", &mut client)] {
        let status = program.await_end(PATIENCE)?;
        ensure!(status.success(), "the tests of this machine as {role} ended with {status}");
    }
    bench.stop_back_ends()
}

/// Two ports of the loopback interface that nobody has.
fn free_ports() -> Result<(u16, u16)> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (listen()?, listen()?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

fn connect(path: &Path, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    Ok(stream)
}

fn from_host(path: &Path) -> Result<()> {
    let mut stream = connect(path, 5000)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.starts_with("OK "), "it was answered {line:?}");
    let sent: Vec<u8> = (0..BYTES as u32).map(|at| (at.wrapping_mul(40503) >> 7) as u8).collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || -> std::io::Result<()> {
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got)?;
    writer.join().ok().context("the writer failed")??;
    ensure!(got == expected, "the guest gave back something else: {} of {BYTES} bytes", got.len());
    Ok(())
}

fn from_host_to_nobody(path: &Path) -> Result<bool> {
    let mut all = Vec::new();
    connect(path, 5001)?.read_to_end(&mut all)?;
    Ok(all.is_empty())
}

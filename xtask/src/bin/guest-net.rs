//! Runs inside a test guest, and on the host beside it: sends and receives content that both sides can compute, over TCP and
//! UDP, and compares every byte.
//!
//! - `serve PORT`: takes connections and datagrams on all addresses, of IPv4 and IPv6, until it is killed.
//! - `copy tcp ADDRESS PORT BYTES SEED`: so many bytes each way at the same time, by one connection.
//! - `copy udp ADDRESS PORT DATAGRAMS SEED LONGEST`: datagrams of all lengths, each of which comes back. What is lost is sent
//!   again, and counted: UDP may lose, but not change.
//! - `dns PORT ADDRESS`: answers every question about names with an address of IPv4, on the loopback interface.
//!
//! Exit status 0 says that every byte was right. Needs the standard library only: it is built by the compiler alone.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../digest.rs"]
mod digest;
use digest::{BLOCK, Digest, mix};

/// How long a peer is waited for: its machine may be starting, or its switch.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long an answer to datagrams may take before they are sent again.
const ANSWER: Duration = Duration::from_millis(300);

/// Datagrams that are under way at the same time.
const WINDOW: u64 = 8;

/// Bytes that are handed to a socket at once.
const PIECE: usize = 64 * BLOCK;

/// What stands in front of a connection's content: what it is, its length and its seed.
const MAGIC: u64 = 0x6f75_7462_6f61_7264;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", port] => serve(port),
        ["dns", port, address] => dns(port, address),
        ["copy", "tcp", address, port, bytes, seed] => copy_tcp(address, port, bytes, seed),
        ["copy", "udp", address, port, count, seed, longest] => copy_udp(address, port, count, seed, longest),
        _ => Err("serve PORT, or copy tcp|udp ADDRESS PORT ...".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn target(address: &str, port: &str) -> Result<SocketAddr, String> {
    let address: IpAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    Ok(SocketAddr::new(address, number(port)?))
}

fn said<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// The content of a seed, from its beginning.
struct Content {
    state: u64,
}

impl Content {
    fn new(seed: u64) -> Self {
        Self { state: mix(seed.wrapping_add(MAGIC)) }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let bytes = mix(self.state).to_le_bytes();
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = from;
            }
        }
    }
}

/// Sends the content of a seed; its digest.
fn send(mut to: impl Write, seed: u64, bytes: u64) -> Result<u64, String> {
    let (mut content, mut digest, mut left) = (Content::new(seed), Digest::new(), bytes);
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..len).unwrap_or_default();
        content.fill(piece);
        digest.update(piece);
        said("sending", to.write_all(piece))?;
        left -= len as u64;
    }
    Ok(digest.value())
}

/// Receives the content of a seed, and compares it; its digest.
fn receive(mut from: impl Read, seed: u64, bytes: u64) -> Result<u64, String> {
    let (mut content, mut digest, mut left) = (Content::new(seed), Digest::new(), bytes);
    let (mut buffer, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..len).unwrap_or_default();
        let wanted = expected.get_mut(..len).unwrap_or_default();
        said("receiving", from.read_exact(piece))?;
        content.fill(wanted);
        if piece != wanted {
            let at = piece.iter().zip(wanted.iter()).position(|(one, other)| one != other).unwrap_or(0);
            return Err(format!("byte {} is not as it was sent", bytes - left + at as u64));
        }
        digest.update(piece);
        left -= len as u64;
    }
    Ok(digest.value())
}

/// Both at the same time: what was sent under `ours`, and received under `theirs`.
fn exchange(stream: &TcpStream, ours: u64, theirs: u64, bytes: u64) -> Result<(u64, u64), String> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, ours, bytes));
        let received = receive(stream, theirs, bytes);
        if received.is_err() {
            // The other half would wait for room.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().map_err(|_| "the sender panicked".to_owned())?;
        Ok((sent?, received?))
    })
}

/// Tells the other side what was received, and hears what it has: nothing is right before both know.
fn settle(mut stream: &TcpStream, sent: u64, received: u64) -> Result<(), String> {
    said("sending a digest", stream.write_all(&received.to_le_bytes()))?;
    let mut theirs = [0; 8];
    said("receiving a digest", stream.read_exact(&mut theirs))?;
    let theirs = u64::from_le_bytes(theirs);
    if theirs != sent {
        return Err(format!("digest {sent:016x} was sent, {theirs:016x} received"));
    }
    Ok(())
}

fn copy_tcp(address: &str, port: &str, bytes: &str, seed: &str) -> Result<(), String> {
    let (to, bytes, seed) = (target(address, port)?, number::<u64>(bytes)?, number::<u64>(seed)?);
    let stream = connect(to)?;
    for word in [MAGIC, bytes, seed] {
        said("sending", (&stream).write_all(&word.to_le_bytes()))?;
    }
    let begun = Instant::now();
    let (sent, received) = exchange(&stream, seed, !seed, bytes)?;
    settle(&stream, sent, received)?;
    println!("{bytes} bytes each way in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Connects, as soon as there is somebody.
fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > PATIENCE => return Err(format!("connecting to {to}: {error}")),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn serve(port: &str) -> Result<(), String> {
    // Takes those of IPv4, too.
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), number(port)?);
    let listener = said("listening", TcpListener::bind(any))?;
    let socket = said("a socket for datagrams", UdpSocket::bind(any))?;
    std::thread::spawn(move || echo(&socket));
    for stream in listener.incoming() {
        let stream = said("accepting", stream)?;
        std::thread::spawn(move || {
            if let Err(reason) = answer(&stream) {
                eprintln!("a connection: {reason}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: &TcpStream) -> Result<(), String> {
    let mut words = [0; 3];
    for word in &mut words {
        let mut bytes = [0; 8];
        said("receiving", stream.read_exact(&mut bytes))?;
        *word = u64::from_le_bytes(bytes);
    }
    let [magic, bytes, seed] = words;
    if magic != MAGIC {
        return Err("not one of ours".to_owned());
    }
    let (sent, received) = exchange(stream, !seed, seed, bytes)?;
    settle(stream, sent, received)
}

/// Answers each question (RFC 1035, 4.1) with one record, whatever the name.
fn dns(port: &str, address: &str) -> Result<(), String> {
    let address: std::net::Ipv4Addr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let socket = said("a socket", UdpSocket::bind(("127.0.0.1", number(port)?)))?;
    let mut buffer = [0; 512];
    loop {
        let (len, from) = said("receiving", socket.recv_from(&mut buffer))?;
        let question = buffer.get(..len).unwrap_or_default();
        // One question: its name ends with an empty label, before its type and class.
        let Some((id, body)) = question.get(..2).zip(question.get(12..)) else { continue };
        let Some(end) = body.iter().position(|&byte| byte == 0) else { continue };
        let Some(asked) = body.get(..end + 5) else { continue };
        let is_v4 = asked.ends_with(&[0, 1, 0, 1]);
        let mut answer = id.to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
        answer.extend(asked);
        if is_v4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
        }
        said("answering", socket.send_to(&answer, from))?;
    }
}

/// Sends back what is as it was sent.
fn echo(socket: &UdpSocket) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let datagram = buffer.get(..len).unwrap_or_default();
        match Datagram::parse(datagram) {
            Ok(_) => drop(socket.send_to(datagram, from)),
            Err(reason) => eprintln!("a datagram from {from}: {reason}"),
        }
    }
}

/// Its seed and number stand in front of what they make.
struct Datagram {
    seed: u64,
    number: u64,
}

impl Datagram {
    /// Seed and number.
    const FRONT: usize = 16;

    fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.seed.to_le_bytes().to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.resize(len.max(Self::FRONT), 0);
        let content = bytes.get_mut(Self::FRONT..).unwrap_or_default();
        Content::new(self.seed ^ mix(self.number)).fill(content);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let word =
            |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
        let (seed, number) = word(0).zip(word(8)).ok_or("too short")?;
        let datagram = Self { seed, number };
        if datagram.bytes(bytes.len()) != bytes {
            return Err(format!("datagram {number} of {} bytes is not as it was sent", bytes.len()));
        }
        Ok(datagram)
    }
}

fn copy_udp(address: &str, port: &str, count: &str, seed: &str, longest: &str) -> Result<(), String> {
    let (to, count, seed) = (target(address, port)?, number::<u64>(count)?, number::<u64>(seed)?);
    let longest = number::<u64>(longest)?.max(Datagram::FRONT as u64);
    let any: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    let any = if to.is_ipv4() { SocketAddr::from(([0, 0, 0, 0], 0)) } else { any };
    let socket = said("a socket", UdpSocket::bind(any))?;
    said("connecting", socket.connect(to))?;
    said("a time-out", socket.set_read_timeout(Some(ANSWER)))?;
    // All lengths in turn, but not in their order.
    let len = |number: u64| {
        let range = longest - Datagram::FRONT as u64 + 1;
        usize::try_from(Datagram::FRONT as u64 + number.wrapping_mul(7919) % range).unwrap_or(Datagram::FRONT)
    };
    let (begun, mut progress, mut again) = (Instant::now(), Instant::now(), 0);
    let mut buffer = vec![0; 1 << 16];
    for first in (0..count).step_by(WINDOW as usize) {
        let mut missing: Vec<u64> = (first..(first + WINDOW).min(count)).collect();
        let mut is_first = true;
        while !missing.is_empty() {
            if progress.elapsed() > PATIENCE {
                return Err(format!("nothing came back for {PATIENCE:?}, of {} missing", missing.len()));
            }
            if !is_first {
                again += missing.len();
            }
            is_first = false;
            for &number in &missing {
                // A route may be missing for a moment.
                let _ = socket.send(&Datagram { seed, number }.bytes(len(number)));
            }
            while !missing.is_empty() {
                let got = match socket.recv(&mut buffer) {
                    Ok(got) => buffer.get(..got).unwrap_or_default(),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        break;
                    }
                    // Nobody listens yet.
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(100));
                        break;
                    }
                };
                let datagram = Datagram::parse(got)?;
                if datagram.seed != seed || datagram.number < first && got.len() != len(datagram.number) {
                    return Err(format!("datagram {} is not one that was sent", datagram.number));
                }
                missing.retain(|&number| number != datagram.number);
                progress = Instant::now();
            }
        }
    }
    println!(
        "{count} datagrams came back in {:.1} s, {again} were sent again",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

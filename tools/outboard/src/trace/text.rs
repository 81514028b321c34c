//! What went by, for people: a line per message, what it carries below it where that is much.

use std::fmt::Write as _;
use std::time::Duration;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::observe::{
    Descriptor, DescriptorKind, Field, Observed, Seen, Side, Unanswered, Value,
};

use super::witness::Event;

/// How many bytes of a message that cannot be decoded are shown.
const DUMPED: usize = 256;
/// Where the second line of a message begins.
const INDENT: &str = "                       ";

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Colour,
}

/// What is coloured how.
#[derive(Clone, Copy)]
enum Ink {
    Name,
    Dim,
    Warning,
}

/// Writes text.
#[derive(Debug)]
pub(super) struct Text {
    paint: Paint,
}

impl Text {
    pub(super) fn new(paint: Paint) -> Self {
        Self { paint }
    }

    /// A message, decoded.
    pub(super) fn message(&self, seen: &Seen, observed: &Observed) -> String {
        let mut line = format!("{:>12} ", seconds(seen.time));
        let _ = write!(line, "{:<9} {} ", label(seen.connection, observed.number), arrow(seen));
        let name = observed.id.map_or_else(|| "incomplete".to_owned(), |id| id.to_string());
        let name = name.strip_prefix("back channel ").unwrap_or(&name);
        line.push_str(&self.ink(Ink::Name, name));
        let mut below = String::new();
        for field in observed.fields.iter().flatten() {
            match &field.value {
                Value::List(items) => {
                    below.extend(items.iter().map(|item| format!("{INDENT}{}\n", joined(item))));
                }
                _ => {
                    let _ = write!(line, " {field}");
                }
            }
        }
        if seen.is_request() && seen.header().is_some_and(|header| header.flags & flags::NEED_REPLY != 0) {
            line.push_str(&self.ink(Ink::Dim, " NEED_REPLY"));
        }
        if !seen.fds.is_empty() {
            let _ = write!(line, " fds=[{}]", descriptors(&seen.fds));
        }
        if let Some(answered) = observed.answers {
            let about = format!("  (#{}, {})", answered.number, span(answered.latency));
            line.push_str(&self.ink(Ink::Dim, &about));
        }
        line.push('\n');
        line.push_str(&below);
        if observed.fields.is_none() {
            dump(&mut line, seen);
        }
        for warning in &observed.warnings {
            let warning = self.ink(Ink::Warning, &format!("! {warning}"));
            let _ = writeln!(line, "{INDENT}{warning}");
        }
        line
    }

    /// The end of a connection.
    pub(super) fn closed(&self, event: &Event, unanswered: &[Unanswered]) -> String {
        let Event::Closed { connection, time, by } = event else { return String::new() };
        let by = side(*by);
        let line = format!("connection {connection} closed by the {by}");
        let mut lines = format!("{:>12} {}\n", seconds(*time), self.ink(Ink::Dim, &line));
        for Unanswered { number, id } in unanswered {
            let warning = self.ink(Ink::Warning, &format!("! never answered: #{number} {id}"));
            let _ = writeln!(lines, "{INDENT}{warning}");
        }
        lines
    }

    /// Anything else.
    pub(super) fn event(&self, event: &Event) -> String {
        match event {
            Event::Opened { connection, time, front, back } => {
                let (front, back) = (printable(front), printable(back));
                let line = format!("connection {connection}: front end {front}, back end {back}");
                format!("{:>12} {}\n", seconds(*time), self.ink(Ink::Dim, &line))
            }
            Event::Note { connection: 0, text } => {
                format!("{}\n", self.ink(Ink::Warning, &format!("! {text}")))
            }
            Event::Note { connection, text } => {
                format!("{}\n", self.ink(Ink::Warning, &format!("! connection {connection}: {text}")))
            }
            Event::Message { .. } | Event::Closed { .. } | Event::Gone { .. } => String::new(),
        }
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match (self.paint, ink) {
            (Paint::Plain, _) => return text.to_owned(),
            (_, Ink::Name) => "1",
            (_, Ink::Dim) => "2",
            (_, Ink::Warning) => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// `#5` of the first connection, `2#5` of the second.
fn label(connection: u32, number: u64) -> String {
    if connection > 1 { format!("{connection}#{number}") } else { format!("#{number}") }
}

/// To the right is to the back end; double on a back channel.
fn arrow(seen: &Seen) -> &'static str {
    match (seen.channel.is_main(), seen.from) {
        (true, Side::FrontEnd) => "-->",
        (true, Side::BackEnd) => "<--",
        (false, Side::FrontEnd) => "==>",
        (false, Side::BackEnd) => "<==",
    }
}

pub(super) fn side(side: Side) -> &'static str {
    match side {
        Side::FrontEnd => "front end",
        Side::BackEnd => "back end",
    }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

fn span(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} us"),
        micros @ 10_000..10_000_000 => format!("{} ms", micros / 1000),
        micros => format!("{} s", micros / 1_000_000),
    }
}

fn joined(fields: &[Field]) -> String {
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn descriptors(fds: &[Descriptor]) -> String {
    let shown = fds.iter().map(|fd| match fd.kind {
        DescriptorKind::File => format!("{} {}", printable(&fd.name), size(fd.size)),
        DescriptorKind::Event => "eventfd".to_owned(),
        DescriptorKind::Socket => "socket".to_owned(),
        DescriptorKind::PipeRead => "pipe, read end".to_owned(),
        DescriptorKind::PipeWrite => "pipe, write end".to_owned(),
        DescriptorKind::Other => printable(&fd.name),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A name is its maker's: it must not steer the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// Sixteen bytes a line, from the header on.
fn dump(to: &mut String, seen: &Seen) {
    for (nth, line) in
        seen.bytes.get(..DUMPED.min(seen.bytes.len())).unwrap_or_default().chunks(16).enumerate()
    {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
        let _ = writeln!(to, "{INDENT}{:04x}  {:<47}  {text}", nth * 16, hex.join(" "));
    }
    if seen.len > DUMPED as u64 {
        let _ = writeln!(to, "{INDENT}...   {} bytes in all", seen.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_do_not_steer_the_terminal() {
        let (front, back) = ("\x1b[2Jfront".to_owned(), "back\r\n".to_owned());
        let event = Event::Opened { connection: 1, time: Duration::ZERO, front, back };
        let shown = Text::new(Paint::Plain).event(&event);
        assert!(shown.ends_with("connection 1: front end ?[2Jfront, back end back??\n"), "{shown:?}");
    }
}

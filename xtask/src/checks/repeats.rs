//! `cargo xtask repeats`: no device says again what another says. What two need is in a crate that both use.
//!
//! A repeat is a run of [`LEAST`] lines or more that stand in two devices one behind the other, equal or of the same shape: with
//! other names, numbers and strings, but the same keywords and operators at the same places. Left aside, since they say what a
//! thing is called and not what is done, are
//!
//! - what [`code`](super::lines::code) leaves out: comments, blank lines, tests;
//! - attributes, `use`, `mod`, `const`, `static` and `type` items, the line that begins a function, and punctuation alone.
//!
//! Of an item in a list, which is a line with a comma at its end and neither keyword nor operator (a field, an entry of a table, a
//! number with a name), the shape says nothing: such a line is equal to another only to the letter.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::lines::code;
use super::{is_test, rust_files, verdict};
use crate::workspace::Workspace;

/// The shortest run that is a repeat, in lines.
const LEAST: usize = 6;

const KEYWORDS: [&str; 30] = [
    "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "fn", "for", "if",
    "impl", "in", "let", "loop", "match", "mod", "move", "mut", "ref", "return", "static", "struct", "trait",
    "type", "unsafe", "use", "where",
];

/// What stands between the names of an item without doing anything.
const QUIET: &str = ",:;.&<>()[]{}=";

/// How items begin that are left aside, behind who may see them.
const ASIDE: [&str; 9] =
    ["use ", "mod ", "const ", "static ", "type ", "fn ", "async fn ", "unsafe fn ", "const fn "];

/// Compares the devices, each with each.
pub(crate) fn repeats(workspace: &Workspace) -> Result<()> {
    let devices = workspace.root.join("devices");
    let mut pieces = Vec::new();
    for file in rust_files(&devices)?.iter().filter(|file| !is_test(file)) {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(&devices)?;
        pieces.push(Piece::read(name, &text)?);
    }
    let lines: usize = pieces.iter().map(|piece| piece.lines.len()).sum();
    let faults = found(&pieces);
    verdict(
        &format!("{lines} lines of devices, and none of them says again what another device says"),
        &faults,
    )
}

/// A source file of a device.
struct Piece {
    device: String,
    name: String,
    /// Numbers and shapes of the lines that count.
    lines: Vec<(usize, String)>,
}

impl Piece {
    /// `name` is the file's within `devices/`.
    fn read(name: &Path, text: &str) -> Result<Self> {
        let device = name.iter().next().context("a file of no device")?.to_string_lossy().into_owned();
        let lines = lines_that_count(text).map(|(number, line)| (number, shape(line))).collect();
        Ok(Self { device, name: format!("devices/{}", name.display()), lines })
    }

    /// Where a run of lines stands.
    fn place(&self, at: usize, len: usize) -> String {
        let number = |at: usize| self.lines.get(at).map_or(0, |(number, _)| *number);
        format!("{}:{}-{}", self.name, number(at), number(at + len - 1))
    }
}

/// The repeats, each once, as long as it is.
fn found(pieces: &[Piece]) -> Vec<String> {
    let mut runs: HashMap<Vec<&str>, Vec<(usize, usize)>> = HashMap::new();
    for (nth, piece) in pieces.iter().enumerate() {
        for (at, window) in piece.lines.windows(LEAST).enumerate() {
            let shapes = window.iter().map(|(_, shape)| shape.as_str()).collect();
            runs.entry(shapes).or_default().push((nth, at));
        }
    }
    // Two files, how far the places in them are apart, and the places in the first.
    let mut pairs: HashMap<(usize, usize, isize), Vec<usize>> = HashMap::new();
    for places in runs.values() {
        for &(one, at) in places {
            for &(other, there) in places.iter().filter(|(other, _)| one < *other) {
                if device(pieces, one) != device(pieces, other) {
                    pairs.entry((one, other, there as isize - at as isize)).or_default().push(at);
                }
            }
        }
    }
    let mut told = Vec::new();
    for ((one, other, apart), mut starts) in pairs {
        starts.sort_unstable();
        for run in starts.chunk_by(|one, next| one + 1 == *next) {
            let (Some(&at), Some(one), Some(other)) = (run.first(), pieces.get(one), pieces.get(other))
            else {
                continue;
            };
            let len = run.len() + LEAST - 1;
            let (here, there) = (one.place(at, len), other.place(at.wrapping_add_signed(apart), len));
            told.push(format!("{here} stands again at {there}: {len} lines"));
        }
    }
    told.sort();
    told
}

fn device(pieces: &[Piece], nth: usize) -> &str {
    pieces.get(nth).map_or("", |piece| &piece.device)
}

/// The lines that count, with their numbers.
fn lines_that_count(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // An item that is left aside and goes on over several lines, up to the one that ends so.
    let mut until = None;
    code(text).filter(move |(_, line)| {
        if let Some(end) = until {
            if line.ends_with(end) {
                until = None;
            }
            return false;
        }
        let item = visible(line);
        if line.starts_with("#[") {
            until = (!line.ends_with(']')).then_some("]");
            return false;
        }
        if item.starts_with("use ") {
            until = (!line.ends_with(';')).then_some(";");
        }
        !ASIDE.iter().any(|start| item.starts_with(start)) && line.contains(|c: char| c.is_alphanumeric())
    })
}

/// An item without who may see it.
fn visible(line: &str) -> &str {
    let rest = line.strip_prefix("pub").unwrap_or(line);
    let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
    if rest.len() < line.len() { rest.trim_start() } else { line }
}

/// What a line is but for its names; the line itself if it is an item of a list.
fn shape(line: &str) -> String {
    // An arm does something.
    let (mut shape, mut is_quiet) = (String::new(), !line.contains("=>"));
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let len = length(rest, first);
        let (token, later) = rest.split_at(len);
        rest = later.trim_start();
        if token == "//" {
            break;
        }
        let is_keyword = KEYWORDS.contains(&token);
        let is_name = "\"'_".contains(first) || first.is_alphanumeric();
        is_quiet &= !is_keyword && (is_name || QUIET.contains(first));
        shape.push_str(if is_name && !is_keyword { "x" } else { token });
        shape.push(' ');
    }
    if is_quiet && line.ends_with(',') { line.to_owned() } else { shape }
}

/// The bytes of the token that `rest` begins with.
fn length(rest: &str, first: char) -> usize {
    let end_of = |part: &str, is_part: fn(char) -> bool| part.find(|c| !is_part(c)).unwrap_or(part.len());
    match first {
        '"' => {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let is_end = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                is_end
            });
            end.map_or(rest.len(), |(at, _)| at + 1)
        }
        // A lifetime, or a character.
        '\'' => {
            let end = 1 + rest.get(1..).map_or(0, |name| end_of(name, |c| c.is_alphanumeric() || c == '_'));
            end + usize::from(end > 1 && rest.get(end..).is_some_and(|behind| behind.starts_with('\'')))
        }
        '/' if rest.starts_with("//") => 2,
        first if first.is_alphanumeric() || first == '_' => end_of(rest, |c| c.is_alphanumeric() || c == '_'),
        first => first.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIC: &str = "\
        let mut left = room;\n\
        while left > 0 {\n\
            let len = source.read(&mut bytes)?;\n\
            if len == 0 {\n\
                break;\n\
            }\n\
            left -= len;\n\
            sink.extend(&bytes[..len]); // and on\n\
        }\n";

    fn piece(name: &str, text: &str) -> Piece {
        Piece::read(Path::new(name), text).unwrap()
    }

    #[test]
    fn run_that_stands_in_two_devices_is_found_whatever_its_names() {
        let renamed = LOGIC.replace("left", "rest").replace("len", "count").replace('0', "1");
        let here = piece("blk/src/a.rs", &format!("mod x;\n{LOGIC}"));
        for text in [LOGIC.to_owned(), format!("fn f() {{\n{renamed}}}\n")] {
            let there = piece("net/src/host/b.rs", &text);
            let told = found(&[there, piece("gpio/src/c.rs", "let x = 1;\n"), piece("blk/src/a.rs", LOGIC)]);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("blk/src/a.rs:1-8") && told[0].ends_with("7 lines"), "{told:?}");
        }
        assert_eq!(here.lines[0].0, 2);
    }

    #[test]
    fn run_within_a_device_shorter_or_with_another_operator_is_none() {
        let of = |device: &str, text: &str| piece(&format!("{device}/src/a.rs"), text);
        assert!(found(&[of("blk", LOGIC), piece("blk/src/b.rs", LOGIC)]).is_empty());
        let short: String = LOGIC.lines().skip(3).map(|line| format!("{line}\n")).collect();
        assert!(found(&[of("blk", LOGIC), of("net", &short)]).is_empty());
        for (from, to) in [("if", "while"), ("-=", "+=")] {
            assert!(found(&[of("blk", LOGIC), of("net", &LOGIC.replace(from, to))]).is_empty(), "{to}");
        }
    }

    #[test]
    fn what_only_names_things_is_left_aside() {
        let one = "\
            use a::{\n    b,\n    c,\n};\n\
            pub(crate) const LEN: u32 = 1 << 2;\n\
            #[derive(Debug)]\n\
            pub(crate) fn f(&self, x: u8) -> bool {\n\
            }\n\
            static X: u8 = 1;\n";
        assert_eq!(lines_that_count(one).count(), 0);
        // Fields and entries of tables are equal only to the letter.
        let table = |name: &str| {
            (0..9).map(|at| format!("(Self::{name}{at}, \"{name}{at}\"),\n")).collect::<String>()
        };
        let fields =
            |name: &str| (0..9).map(|at| format!("pub {name}{at}: Option<u{at}>,\n")).collect::<String>();
        for list in [table, fields] {
            let pair = |name| [piece("blk/src/a.rs", &list("A")), piece("net/src/a.rs", &list(name))];
            assert!(found(&pair("B")).is_empty());
            assert_eq!(found(&pair("A")).len(), 1);
        }
    }

    #[test]
    fn shape_keeps_what_is_done_and_drops_what_it_is_called() {
        assert_eq!(shape(r#"let a = b("x \" y", 0x1f, 'c');"#), "let x = x ( x , x , x ) ; ");
        assert_eq!(shape("if self.x > 3 { // why"), "if x . x > x { ");
        for item in ["name: 3,", "Name = 0x3,", "pub name: Option<&'static u8>,"] {
            assert_eq!(shape(item), item);
        }
        assert_eq!(shape("Self::A => b,"), "x : : x = > x , ");
        assert_eq!(shape("name: 3 + 4,"), "x : x + x , ");
    }
}

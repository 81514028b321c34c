//! The plan as commands for a POSIX shell: to be read, changed, and pasted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{BackEnd, Plan};

/// Where the sockets are.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    pub(super) path: &'a Path,
    /// Whether it stays when the machine ends.
    pub(super) kept: bool,
}

/// Commands that do what this program would do. In parentheses: the shell reads them all before it runs the first,
/// so that QEMU cannot take the rest of what is pasted for the guest's input.
pub(super) fn script(program: &Path, directory: &Directory<'_>, plan: &Plan) -> Vec<u8> {
    let path = quoted(directory.path.as_os_str());
    let mut text = b"(\n".to_vec();
    text.extend(
        [if directory.kept { b"mkdir -p -m 700 ".as_slice() } else { b"mkdir -m 700 " }, &path].concat(),
    );
    text.extend(b" || exit\npids=\n");
    // The path stands within quotes here.
    let clean = if directory.kept { Vec::new() } else { [b"; rm -r ".as_slice(), &path].concat() };
    let trap = [b"kill $pids 2>/dev/null; wait".as_slice(), &clean].concat();
    text.extend([b"trap ".as_slice(), &quoted(OsStr::from_bytes(&trap)), b" EXIT\n"].concat());
    for back_end in &plan.back_ends {
        text.extend(command(program, back_end));
        text.extend(b" &\npids=\"$pids $!\"\nuntil [ -S ");
        text.extend(quoted(back_end.socket.as_ref()));
        text.extend(b" ]; do kill -0 $! 2>/dev/null || exit 1; sleep 0.1; done\n");
    }
    for (at, word) in plan.qemu.iter().enumerate() {
        let option = word.as_bytes().starts_with(b"-");
        let before: &[u8] = match (at, option) {
            (0, _) => b"",
            (_, true) => b" \\\n    ",
            (_, false) => b" ",
        };
        text.extend(before);
        text.extend(quoted(word));
    }
    text.extend(b"\n)\n");
    text
}

/// The commands that start the back ends, a line for each.
pub(super) fn back_ends(program: &Path, back_ends: &[BackEnd]) -> Vec<u8> {
    back_ends.iter().flat_map(|back_end| [command(program, back_end), b" &\n".to_vec()].concat()).collect()
}

/// The command that starts a back end.
pub(super) fn command(program: &Path, back_end: &BackEnd) -> Vec<u8> {
    let mut text = quoted(program.as_os_str());
    for word in &back_end.args {
        text.push(b' ');
        text.extend(quoted(word.as_ref()));
    }
    text
}

/// A word as the shell has to see it to mean just that.
fn quoted(word: &OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let mut text = vec![b'\''];
    for &byte in bytes {
        match byte {
            b'\'' => text.extend(br"'\''"),
            _ => text.push(byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_reach_a_shell_unchanged() {
        let words =
            ["plain-1.0/x=y,z", "", "two words", "it's", "$(false) `x` \\ \"", "new\nline", "~", "*", "é"];
        for word in words {
            let mut script = b"printf %s ".to_vec();
            script.extend(quoted(word.as_ref()));
            let script = OsStr::from_bytes(&script);
            let said = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(said.stdout, word.as_bytes());
        }
        assert_eq!(quoted("a/b.c".as_ref()), b"a/b.c");
    }
}

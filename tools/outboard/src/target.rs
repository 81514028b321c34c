//! What a tool is pointed at: a socket where a back end listens, or a command that starts one. Neither is trusted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::back_end::BackEnd;
use crate::peer;
use crate::socket_dir::SocketDir;

/// Stands for the path of the socket in a command.
const PLACE: &[u8] = b"{socket}";
/// Stands for that path without its last character, a `0`: some programs serve several sockets, and number them.
const STEM: &[u8] = b"{stem}";

/// The words of a command line that name a back end.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// The socket where a back end listens
    #[arg(value_name = "SOCKET", conflicts_with = "command")]
    socket: Option<PathBuf>,

    /// The command that starts a back end; {socket} in it stands for the path of its socket ({stem}
    /// for that path without the 0 at its end), else --socket-path=PATH is added
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A back end.
#[derive(Debug)]
pub(crate) struct Target {
    socket: PathBuf,
    started: Option<Started>,
}

/// A back end that is ours to start and end.
#[derive(Debug)]
struct Started {
    command: Vec<OsString>,
    back_end: Option<BackEnd>,
    /// Where its socket is, and what it says where that is not for the terminal.
    dir: SocketDir,
    aloud: bool,
}

impl Target {
    /// The back end that `args` name; it is started where they name a command. What it says then is for the terminal
    /// if `aloud`; else it is kept, and told only if it does not start.
    ///
    /// # Errors
    /// There is neither; the command cannot be started, or does not listen.
    pub(crate) fn open(args: &TargetArgs, aloud: bool) -> Result<Self> {
        match &args.socket {
            Some(socket) => Ok(Self::of_socket(socket)),
            None if args.command.is_empty() => bail!("a SOCKET or `-- COMMAND` is needed; see --help"),
            None => Self::of_command(&args.command, aloud),
        }
    }

    /// The back end that somebody else started.
    pub(crate) fn of_socket(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), started: None }
    }

    /// The back end that a command starts; `aloud` as for [`open`](Self::open).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn of_command(command: &[OsString], aloud: bool) -> Result<Self> {
        let dir = SocketDir::new()?;
        let socket = dir.path().join("socket0");
        let started = Started { command: command.to_vec(), back_end: None, dir, aloud };
        let mut this = Self { socket, started: Some(started) };
        this.start()?;
        Ok(this)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What to call it: the command or the socket.
    pub(crate) fn name(&self) -> String {
        match &self.started {
            Some(started) => started.command.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            None => self.socket.display().to_string(),
        }
    }

    /// Whether it can be started again.
    pub(crate) fn is_ours(&self) -> bool {
        self.started.is_some()
    }

    /// The command that starts it, with `socket` for its place; `None` where it was started by others.
    pub(crate) fn command(&self, socket: &Path) -> Option<Command> {
        self.started.as_ref().and_then(|started| command(&started.command, socket))
    }

    /// Starts the back end, if it is ours and does not run.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn start(&mut self) -> Result<()> {
        let Some(started) = &mut self.started else { return Ok(()) };
        if let Some(back_end) = &mut started.back_end
            && back_end.ended()?.is_none()
        {
            return Ok(());
        }
        started.back_end = None;
        // Left by one that was killed: with it there, some programs refuse to start.
        if let Err(error) = std::fs::remove_file(&self.socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).context("cannot remove the socket of the back end before");
        }
        let Some(mut program) = command(&started.command, &self.socket) else {
            bail!("the command is empty")
        };
        let name = program.get_program().to_string_lossy().into_owned();
        let said = started.dir.path().join("stderr");
        if !started.aloud {
            program.stderr(File::create(&said).context("cannot keep what the back end says")?);
        }
        let back_end = BackEnd::spawn_command(program, &name, &self.socket).map_err(|error| {
            let said = std::fs::read(&said).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim_end().to_owned();
            if said.is_empty() { error } else { error.context(said) }
        })?;
        started.back_end = Some(back_end);
        Ok(())
    }

    /// The process that we started, if it is ours and runs.
    pub(crate) fn back_end(&mut self) -> Option<&mut BackEnd> {
        self.started.as_mut()?.back_end.as_mut()
    }

    /// Hands the running process over to somebody who ends it; [`start`](Self::start) then starts another.
    pub(crate) fn take_back_end(&mut self) -> Option<BackEnd> {
        self.started.as_mut()?.back_end.take()
    }

    /// The process behind the socket: ours, or as the kernel tells of the one that listens.
    ///
    /// # Errors
    /// Nobody listens, or the kernel does not tell.
    pub(crate) fn pid(&mut self) -> Result<Pid> {
        if let Some(back_end) = self.back_end() {
            return Ok(back_end.pid());
        }
        let stream = outboard_frontend::dial(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        peer::pid(&stream)?.context("the back end runs in a PID namespace that is out of sight")
    }
}

/// The command with `socket` put in its place. `None` when there is no word in it.
fn command(words: &[OsString], socket: &Path) -> Option<Command> {
    let socket_bytes = socket.as_os_str().as_bytes();
    let stem = socket_bytes.strip_suffix(b"0").unwrap_or(socket_bytes);
    let mut placed = false;
    let mut words = words.iter().map(|word| {
        let (word, has_socket) = place(word.as_bytes(), PLACE, socket_bytes);
        let (word, has_stem) = place(&word, STEM, stem);
        placed |= has_socket || has_stem;
        OsString::from_vec(word)
    });
    let mut command = Command::new(words.next()?);
    command.args(words);
    if !placed {
        let mut option = OsString::from("--socket-path=");
        option.push(socket);
        command.arg(option);
    }
    Some(command)
}

/// A word with each `placeholder` replaced by `value`, and whether there was one.
fn place(word: &[u8], placeholder: &[u8], value: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.windows(placeholder.len()).position(|window| window == placeholder) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        out.extend_from_slice(value);
        rest = after.get(placeholder.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    let found = rest.len() != word.len();
    (out, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn command_without_a_place_gets_the_option_of_the_conventions() {
        let words_in = ["daemon", "--blk-file", "x"].map(OsString::from);
        let built = command(&words_in, Path::new("/run/s")).unwrap();
        assert_eq!(words(&built), ["daemon", "--blk-file", "x", "--socket-path=/run/s"]);
    }

    #[test]
    fn command_with_places_has_the_socket_in_each() {
        let words_in = ["qsd", "addr.path={socket},x={socket}", "{sock}"].map(OsString::from);
        let built = command(&words_in, Path::new("/run/s")).unwrap();
        assert_eq!(words(&built), ["qsd", "addr.path=/run/s,x=/run/s", "{sock}"]);
    }

    #[test]
    fn command_with_a_stem_has_the_socket_without_its_number() {
        let words_in = ["rng", "-s", "{stem}"].map(OsString::from);
        let built = command(&words_in, Path::new("/run/s0")).unwrap();
        assert_eq!(words(&built), ["rng", "-s", "/run/s"]);
    }

    #[test]
    fn command_of_no_word_is_none() {
        assert!(command(&[], Path::new("/run/s")).is_none());
    }
}

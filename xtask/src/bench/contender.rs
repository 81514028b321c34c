//! What is compared: ours in its modes, other people's disks, and fio on the file itself. Programs that cannot be
//! fetched from a package registry are taken from the PATH or from where `--program` says, and left out otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;

use super::target::{RAM, Target};
use super::{Options, fields};
use crate::setup::prefix::{Prefix, Qemu};
use crate::workspace::{Workspace, output};

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Others,
    /// Nobody's: fio works on the file with io_uring.
    Native,
}

/// One that is compared.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) version: String,
    kind: Kind,
    starts: Vec<(Target, Start)>,
}

/// How one is started for a target.
#[derive(Debug, Clone)]
pub(super) struct Start {
    words: Vec<String>,
    /// A file for its settings, `{directory}/settings`.
    settings: Option<String>,
    /// Whether it can be kept on one CPU.
    pub(super) is_pinned: bool,
}

/// What stands for the places in a [`Start`].
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) directory: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) file: Option<PathBuf>,
    pub(super) queues: u16,
    pub(super) cpu: usize,
}

impl Places<'_> {
    fn filled(&self, text: &str) -> String {
        // One reactor does for all queues.
        let mask = format!("{:#x}", 1_u64 << if self.queues == 1 { self.cpu } else { 0 });
        let name = self.socket.file_name().unwrap_or_default().to_string_lossy();
        let file = self.file.as_deref().unwrap_or(Path::new("")).display().to_string();
        text.replace("{socket}", &self.socket.display().to_string())
            .replace("{directory}", &self.directory.display().to_string())
            .replace("{name}", &name)
            .replace("{file}", &file)
            .replace("{queues}", &self.queues.to_string())
            .replace("{size}", RAM)
            .replace("{mask}", &mask)
    }
}

impl Start {
    fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect(), settings: None, is_pinned: true }
    }

    /// The command, once its settings are written.
    pub(super) fn command(&self, places: &Places<'_>) -> Result<Command> {
        if let Some(settings) = &self.settings {
            std::fs::write(places.directory.join("settings"), places.filled(settings))?;
        }
        let mut words = self.words.iter().map(|word| places.filled(word));
        let mut command = Command::new(words.next().context("a command without a word")?);
        // What libraries say of each request would be a part of what is measured.
        command.args(words).env("RUST_LOG", "error").current_dir(places.directory);
        Ok(command)
    }
}

impl Contender {
    /// Whether it is of this project.
    pub(super) fn is_ours(&self) -> bool {
        self.kind == Kind::Ours
    }

    /// Whether it is no back end, but the file itself.
    pub(super) fn is_native(&self) -> bool {
        self.kind == Kind::Native
    }

    /// How it is started; `None` if it has no such disk.
    pub(super) fn start(&self, target: Target) -> Option<&Start> {
        self.starts.iter().find(|(of, _)| *of == target).map(|(_, start)| start)
    }

    /// Whether it takes part.
    pub(super) fn has(&self, target: Target) -> bool {
        if self.is_native() { target != Target::Ram } else { self.start(target).is_some() }
    }

    fn other(name: &str, version: String, starts: Vec<(Target, Start)>) -> Self {
        Self { name: name.to_owned(), version, kind: Kind::Others, starts }
    }
}

/// All that are there; what is missing is told.
pub(super) fn known(workspace: &Workspace, options: &Options) -> Result<Vec<Contender>> {
    let ours = workspace.release_binary("vhost-user-blk");
    let version = version_of(Command::new(&ours).arg("--version")).context("our own disk")?;
    let commit = output(workspace.command("git").args(["describe", "--always", "--dirty"]));
    let commit = commit.map(|said| String::from_utf8_lossy(&said).trim().to_owned()).unwrap_or_default();
    let version = format!("{version} {commit}").trim().to_owned();
    let mut all = vec![
        outboard(&ours, &version, "outboard", &[]),
        outboard(&ours, &version, "outboard --poll off", &["--poll", "off"]),
        outboard(&ours, &version, "outboard --poll always", &["--poll", "always"]),
        Contender {
            name: "io_uring, no guest".to_owned(),
            version: rustix::system::uname().release().to_string_lossy().into_owned(),
            kind: Kind::Native,
            starts: Vec::new(),
        },
    ];
    match storage_daemon(workspace) {
        Ok(contender) => all.push(contender),
        Err(error) => eprintln!("not compared: qemu-storage-daemon: {error:#}"),
    }
    let given = options.program.iter().map(|text| text.split_once('=').context("--program takes NAME=PATH"));
    let given = given.collect::<Result<Vec<_>>>()?;
    for program in PROGRAMS {
        let path = given.iter().find(|(name, _)| *name == program.name).map(|(_, path)| PathBuf::from(path));
        match path.or_else(|| fields::on_path(program.file)) {
            Some(path) if path.is_file() => all.push((program.contender)(&std::path::absolute(path)?)),
            Some(path) => bail!("{}: no file {}", program.name, path.display()),
            None => eprintln!(
                "not compared: {0}: no `{1}` on the PATH, and no --program {0}=PATH",
                program.name, program.file
            ),
        }
    }
    if let Some((name, _)) = given.iter().find(|(name, _)| PROGRAMS.iter().all(|known| known.name != *name)) {
        bail!("--program knows cloud-hypervisor, spdk and ubiblk, not {name}; --peer takes any other");
    }
    for text in &options.peer {
        add_custom(&mut all, text)?;
    }
    Ok(all)
}

fn outboard(program: &Path, version: &str, name: &str, options: &[&str]) -> Contender {
    let start = |target| {
        let program = program.display().to_string();
        let mut words = vec![program, "--socket-path={socket}".to_owned(), "--log-level=warn".to_owned()];
        words.push("--num-queues={queues}".to_owned());
        match target {
            Target::Ram => words.push("--ram={size}".to_owned()),
            _ => words.push("--blk-file={file}".to_owned()),
        }
        if target == Target::Direct {
            words.push("--direct".to_owned());
        }
        words.extend(options.iter().map(|&word| word.to_owned()));
        (target, Start::new(words))
    };
    let starts = Target::ALL.map(start).to_vec();
    Contender { name: name.to_owned(), version: version.to_owned(), kind: Kind::Ours, starts }
}

/// QEMU's, with a thread and a ring of its own. Its disk in memory reads as zeroes without being read, which is
/// no comparison.
fn storage_daemon(workspace: &Workspace) -> Result<Contender> {
    let program = Prefix::qemu(workspace, Qemu::V11).command("bin/qemu-storage-daemon")?;
    let before: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut ask = Command::new(program.get_program());
    let version = version_of(ask.args(program.get_args()).arg("--version"))?;
    let start = |target| {
        let direct = if target == Target::Direct { "on" } else { "off" };
        let mut words = before.clone();
        words.extend([
            "--blockdev".to_owned(),
            format!("driver=file,node-name=disk,filename={{file}},aio=io_uring,cache.direct={direct}"),
            "--object".to_owned(),
            "iothread,id=thread".to_owned(),
            "--export".to_owned(),
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},writable=on,\
             iothread=thread,num-queues={queues}"
                .to_owned(),
        ]);
        (target, Start::new(words))
    };
    let starts = FILES.map(start).to_vec();
    Ok(Contender::other("qemu-storage-daemon", version, starts))
}

/// The targets that every disk has.
const FILES: [Target; 3] = [Target::Tmpfs, Target::Cached, Target::Direct];

/// A program that no registry has.
struct Program {
    name: &'static str,
    /// What its authors call the file.
    file: &'static str,
    contender: fn(&Path) -> Contender,
}

const PROGRAMS: [Program; 3] = [
    Program { name: "cloud-hypervisor", file: "vhost_user_block", contender: cloud_hypervisor },
    Program { name: "spdk", file: "vhost", contender: spdk },
    Program { name: "ubiblk", file: "vhost-backend", contender: ubiblk },
];

fn cloud_hypervisor(program: &Path) -> Contender {
    let start = |target| {
        let settings = format!(
            "path={{file}},socket={{socket}},num_queues={{queues}},queue_size=256,direct={},poll_queue=true",
            target == Target::Direct
        );
        (target, Start::new([program.display().to_string(), "--block-backend".to_owned(), settings]))
    };
    let version = version_of(Command::new(program).arg("--version")).unwrap_or_default();
    Contender::other("cloud-hypervisor", version, FILES.map(start).to_vec())
}

/// Its io_uring on tmpfs needs threads of the kernel, which a spinning reactor starves: there it gets aio.
fn spdk(program: &Path) -> Contender {
    let huge = fields::free_huge_pages() >= 160;
    let start = |target| {
        let (method, disk) = match target {
            Target::Ram => (
                "bdev_malloc_create",
                r#""name": "disk", "num_blocks": 32768, "block_size": 4096"#.to_owned(),
            ),
            _ => {
                let method = if target == Target::Direct { "bdev_uring_create" } else { "bdev_aio_create" };
                (method, r#""name": "disk", "filename": "{file}", "block_size": 4096"#.to_owned())
            }
        };
        let settings = format!(
            r#"{{"subsystems": [{{"subsystem": "bdev", "config": [{{"method": "{method}", "params": {{{disk}}}}}]}},
                {{"subsystem": "vhost_blk", "config": [{{"method": "vhost_create_blk_controller",
                 "params": {{"ctrlr": "{{name}}", "dev_name": "disk"}}}}]}}]}}"#
        );
        let mut words = vec![program.display().to_string()];
        let options = ["-m", "{mask}", "--no-pci", "-S", "{directory}", "-r", "{socket}.rpc"];
        words.extend(options.map(str::to_owned));
        words.extend(["--json", "{directory}/settings"].map(str::to_owned));
        let memory: &[&str] =
            if huge { &["-s", "320", "--single-file-segments"] } else { &["-s", "512", "--no-huge"] };
        words.extend(memory.iter().map(|&word| word.to_owned()));
        let mut start = Start::new(words);
        start.settings = Some(settings);
        start.is_pinned = false;
        (target, start)
    };
    let version = version_of(Command::new(program).arg("--version")).unwrap_or_default();
    Contender::other("spdk", version, Target::ALL.map(start).to_vec())
}

fn ubiblk(program: &Path) -> Contender {
    let start = |target| {
        let settings = "[device]\ndata_path = \"{file}\"\nvhost_socket = \"{socket}\"\n\
                        [tuning]\nnum_queues = {queues}\nqueue_size = 256\nseg_size_max = 131072\n\
                        [danger_zone]\nenabled = true\nallow_unencrypted_disk = true\n";
        let mut start = Start::new([&program.display().to_string(), "--config", "{directory}/settings"]);
        start.settings = Some(settings.to_owned());
        // It spins while the kernel's threads that serve it need the CPU.
        start.is_pinned = target != Target::Tmpfs;
        (target, start)
    };
    let version = version_of(Command::new(program).arg("--version")).unwrap_or_default();
    // It knows no page cache.
    Contender::other("ubiblk", version, [Target::Tmpfs, Target::Direct].map(start).to_vec())
}

/// Takes in `NAME[@TARGET]=COMMAND`.
fn add_custom(all: &mut Vec<Contender>, text: &str) -> Result<()> {
    let (name, command) = text.split_once('=').context("--peer takes NAME[@TARGET]=COMMAND")?;
    let (name, targets) = match name.split_once('@') {
        None => (name, FILES.to_vec()),
        Some((name, target)) => {
            (name, vec![Target::from_str(target, false).map_err(anyhow::Error::msg).context("--peer")?])
        }
    };
    if !command.contains("{socket}") {
        bail!("--peer {name}: the command does not say where {{socket}} goes");
    }
    let start = Start::new(["sh".to_owned(), "-c".to_owned(), format!("exec {command}")]);
    let starts = targets.into_iter().map(|target| (target, start.clone()));
    match all.iter_mut().find(|other| other.name == name && other.kind == Kind::Others) {
        Some(contender) => contender.starts.extend(starts),
        None => all.push(Contender::other(name, String::new(), starts.collect())),
    }
    Ok(())
}

/// The first line that a program says, without its own name.
fn version_of(command: &mut Command) -> Result<String> {
    let said = output(command)?;
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().next().unwrap_or_default();
    let version = line.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()));
    Ok(version.unwrap_or(line).trim_start_matches('v').to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn custom_of_several_targets_is_one_contender() {
        let mut all = Vec::new();
        add_custom(&mut all, "floor@ram=floor {socket} mem=1").unwrap();
        add_custom(&mut all, "floor@tmpfs=floor {socket} sync:{file}").unwrap();
        assert_eq!(all.len(), 1);
        assert!(all[0].has(Target::Ram) && all[0].has(Target::Tmpfs) && !all[0].has(Target::Direct));
        assert_eq!(all[0].start(Target::Ram).unwrap().words[2], "exec floor {socket} mem=1");
    }

    #[test]
    fn custom_that_is_wrong_is_refused() {
        for text in ["floor", "floor@null=x {socket}", "floor=x"] {
            assert!(add_custom(&mut Vec::new(), text).is_err(), "{text}");
        }
    }

    #[test]
    fn places_are_filled_everywhere() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("3.sock");
        let places = Places {
            directory: directory.path(),
            socket: &socket,
            file: Some(PathBuf::from("/disk")),
            queues: 1,
            cpu: 1,
        };
        let start = spdk(Path::new("/vhost")).start(Target::Direct).unwrap().clone();
        let command = start.command(&places).unwrap();
        assert!(command.get_args().any(|word| word == "0x2"));
        let settings = std::fs::read_to_string(directory.path().join("settings")).unwrap();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        assert_eq!(settings.pointer("/subsystems/0/config/0/params/filename").unwrap(), "/disk");
        assert_eq!(settings.pointer("/subsystems/1/config/0/params/ctrlr").unwrap(), "3.sock");
    }
}

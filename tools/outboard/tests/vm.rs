//! `outboard vm` and `outboard discovery` as processes, with a shell script in QEMU's place: what it is told, what
//! runs beside it, and that nothing is left when it ends. Guests boot in `cargo xtask guests` and docs/vm.md.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const OUTBOARD: &str = env!("CARGO_BIN_EXE_outboard");
/// Longer than anything takes, on a machine that does a dozen other things.
const LONG: Duration = Duration::from_secs(60);

/// A directory with a QEMU that is none, and one for what `outboard vm` makes.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// The script stands in for QEMU: of version `version`, it notes its arguments, the process ids of the back ends,
    /// which are its siblings, and the mode of the sockets' directory, and then does what `end` says.
    fn new(version: &str, end: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let script = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = --version ]; then echo 'QEMU emulator version {version} (no such)'; exit; fi\n\
             for id in $(cat /proc/$PPID/task/*/children); do [ $id = $$ ] || echo $id; done > '{at}/back-ends'\n\
             stat -c %a '{at}'/tmp/* > '{at}/modes'\n\
             find '{at}/tmp' -type s > '{at}/sockets'\n\
             printf '%s\\n' \"$@\" > '{at}/args.new'\n\
             mv '{at}/args.new' '{at}/args'\n\
             {end}\n"
        );
        fs::write(dir.path().join("qemu"), script).unwrap();
        fs::set_permissions(dir.path().join("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `outboard vm ARGS` with the script as QEMU.
    fn vm(&self, args: &[&str]) -> Command {
        let mut command = Command::new(OUTBOARD);
        command.args(["vm", "--qemu"]).arg(self.path("qemu")).args(["--machine", "q35", "--accel", "tcg"]);
        command.args(args).env("TMPDIR", self.path("tmp")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it, and waits until the script has noted everything.
    fn start(&self, args: &[&str]) -> Child {
        let child = self.vm(args).spawn().unwrap();
        eventually("QEMU runs", || self.path("args").exists());
        child
    }

    fn back_ends(&self) -> Vec<i32> {
        self.read("back-ends").split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    /// What a machine leaves behind: nothing.
    fn assert_clean(&self) {
        assert_eq!(fs::read_dir(self.path("tmp")).unwrap().count(), 0, "something is left in TMPDIR");
        for id in self.back_ends() {
            assert!(!lives(id), "the back end {id} still runs");
        }
    }
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn lives(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(id: i32, signal: Signal) {
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

fn id(child: &Child) -> i32 {
    child.id().try_into().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn machine_that_ends_passes_its_status_on_and_leaves_nothing() {
    let stage = Stage::new("10.0.13", "exit 7");
    let args = ["--smp", "2", "--device", "blk=ram=1M", "--device", "rng", "--device", "blk=ram=2M,serial=b"];
    let output = stage.vm(&args).args(["--memory=256M", "--", "-snapshot", "two words"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    stage.assert_clean();
    assert_eq!(stage.back_ends().len(), 3);
    assert_eq!(stage.read("modes"), "700\n");
    let directory = {
        let sockets = stage.read("sockets");
        let mut sockets: Vec<&str> = sockets.lines().collect();
        sockets.sort_unstable();
        let directory = Path::new(sockets[0]).parent().unwrap().to_str().unwrap().to_owned();
        let expected = ["blk0", "blk1", "rng0"].map(|name| format!("{directory}/{name}.sock"));
        assert_eq!(sockets, expected);
        directory
    };
    let expected = format!(
        "-machine q35,memory-backend=mem -accel tcg -cpu max -smp 2 -m 256M \
         -object memory-backend-memfd,id=mem,size=256M,share=on -nic none \
         -chardev socket,id=blk0,path={directory}/blk0.sock,reconnect-ms=500 \
         -device vhost-user-blk-pci,id=blk0,chardev=blk0,num-queues=2 \
         -chardev socket,id=rng0,path={directory}/rng0.sock \
         -device vhost-user-rng-pci,id=rng0,chardev=rng0 \
         -chardev socket,id=blk1,path={directory}/blk1.sock,reconnect-ms=500 \
         -device vhost-user-blk-pci,id=blk1,chardev=blk1,num-queues=2 \
         -nographic -snapshot two*words"
    );
    let expected: Vec<String> = expected.split(' ').map(|word| word.replace('*', " ")).collect();
    assert_eq!(stage.read("args").lines().collect::<Vec<_>>(), expected);
}

#[test]
fn machine_without_devices_named_has_one_of_each() {
    let stage = Stage::new("10.0.13", "exit 0");
    let output = stage.vm(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stage.back_ends().len(), 3);
    stage.assert_clean();
}

#[test]
fn machine_of_an_older_qemu_connects_again_after_seconds() {
    for (version, expected) in [("7.2.22", 1), ("9.1.3", 1), ("9.2.0", 0), ("11.1.3", 0)] {
        let stage = Stage::new(version, "exit 0");
        let text = stdout(&stage.vm(&["--print", "--device=blk", "--device=rng"]).output().unwrap());
        assert_eq!(text.matches(",reconnect=1 ").count(), expected, "{version}: {text}");
        assert_eq!(text.matches(",reconnect-ms=500 ").count(), 1 - expected, "{version}: {text}");
    }
}

#[test]
fn machine_that_is_killed_gives_the_status_of_a_shell() {
    let stage = Stage::new("10.0.13", "kill -9 $$");
    let output = stage.vm(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 9), "{}", stderr(&output));
    stage.assert_clean();
}

#[test]
fn back_end_that_does_not_start_is_shown_and_keeps_qemu_from_starting() {
    let stage = Stage::new("10.0.13", "exit 0");
    let output = stage.vm(&["--device", "rng", "--device", "blk=missing.img"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("cannot open missing.img: No such file"), "{said}");
    assert!(said.contains("the back end blk0 did not start"), "{said}");
    assert!(!stage.path("args").exists(), "QEMU was started");
    assert_eq!(fs::read_dir(stage.path("tmp")).unwrap().count(), 0);
}

#[test]
fn back_end_that_dies_is_reported_with_the_way_to_start_it_again() {
    let stage = Stage::new("10.0.13", "read id; exit 3");
    let (read, write) = std::io::pipe().unwrap();
    let child = stage.vm(&["--device=rng", "--device=blk=ram=1M"]).stdin(read).spawn().unwrap();
    eventually("QEMU runs", || stage.path("args").exists());
    let ids = stage.back_ends();
    for &id in &ids {
        signal(id, Signal::KILL);
    }
    // Waited for by its parent, that is.
    let gone = |id: &i32| !Path::new(&format!("/proc/{id}")).exists();
    eventually("the deaths are noticed", || ids.iter().all(gone));
    drop(write);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    for name in ["rng0", "blk0"] {
        assert!(said.contains(&format!("the back end {name} (process ")), "{said}");
    }
    assert_eq!(said.matches("to start it again: outboard run blk --socket-path").count(), 1, "{said}");
    stage.assert_clean();
}

#[test]
fn machine_told_to_stop_stops_qemu_and_the_back_ends() {
    for asked in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stage = Stage::new("10.0.13", "exec sleep 600");
        let child = stage.start(&[]);
        signal(id(&child), asked);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
        stage.assert_clean();
    }
}

#[test]
fn machine_whose_parent_is_killed_does_not_live_on() {
    let stage = Stage::new("10.0.13", "echo $$ >> back-ends; exec sleep 600");
    let mut child = stage.start(&[]);
    eventually("QEMU has told its process id", || stage.back_ends().len() == 4);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("all have ended", || stage.back_ends().iter().all(|&id| !lives(id)));
}

#[test]
fn print_has_everything_and_quotes_it() {
    let stage = Stage::new("10.0.13", "exit 0");
    let args = ["--print", "--directory", "/run/my vm,1", "--memory", "512", "--kernel", "it's.bin"];
    let devices = ["--device=blk=a b,,c.img,read-only", "--device=rng=/dev/urandom", "--", "-name", "$x"];
    let text = stdout(&stage.vm(&args).args(devices).output().unwrap());
    let program = fs::canonicalize(OUTBOARD).unwrap();
    let text = text.replace(program.to_str().unwrap(), "OUTBOARD");
    let text = text.replace(stage.path("qemu").to_str().unwrap(), "QEMU");
    let expected = r#"(
mkdir -p -m 700 '/run/my vm,1' || exit
pids=
trap 'kill $pids 2>/dev/null; wait' EXIT
OUTBOARD run blk --socket-path '/run/my vm,1/blk0.sock' --log-level warn '--blk-file=a b,c.img' --read-only &
pids="$pids $!"
until [ -S '/run/my vm,1/blk0.sock' ]; do kill -0 $! 2>/dev/null || exit 1; sleep 0.1; done
OUTBOARD run rng --socket-path '/run/my vm,1/rng0.sock' --log-level warn --source=/dev/urandom &
pids="$pids $!"
until [ -S '/run/my vm,1/rng0.sock' ]; do kill -0 $! 2>/dev/null || exit 1; sleep 0.1; done
QEMU \
    -machine q35,memory-backend=mem \
    -accel tcg \
    -cpu max \
    -smp 1 \
    -m 512M \
    -object memory-backend-memfd,id=mem,size=512M,share=on \
    -nic none \
    -chardev 'socket,id=blk0,path=/run/my vm,,1/blk0.sock,reconnect-ms=500' \
    -device vhost-user-blk-pci,id=blk0,chardev=blk0,num-queues=1 \
    -chardev 'socket,id=rng0,path=/run/my vm,,1/rng0.sock' \
    -device vhost-user-rng-pci,id=rng0,chardev=rng0 \
    -kernel 'it'\''s.bin' \
    -append console=ttyS0 \
    -nographic \
    -name '$x'
)
"#;
    assert_eq!(text, expected);
}

#[test]
fn print_runs_in_a_shell_like_the_machine_itself() {
    let stage = Stage::new("10.0.13", "exit 7");
    let script = stdout(&stage.vm(&["--print"]).output().unwrap());
    fs::write(stage.path("script"), script).unwrap();
    let mut shell = Command::new("sh");
    shell.arg(stage.path("script")).env("TMPDIR", stage.path("tmp")).stdin(Stdio::null());
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stage.back_ends().len(), 3);
    assert_eq!(stage.read("sockets").lines().count(), 3);
    stage.assert_clean();
}

#[test]
fn print_of_a_back_end_that_does_not_start_ends_in_a_shell() {
    let stage = Stage::new("10.0.13", "exit 0");
    let script = stdout(&stage.vm(&["--print", "--device=blk=missing.img"]).output().unwrap());
    let output = Command::new("sh").arg("-c").arg(script).current_dir(stage.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("missing.img"), "{}", stderr(&output));
    assert!(!stage.path("args").exists(), "QEMU was started");
}

#[test]
fn transport_without_pci_has_plain_devices() {
    let stage = Stage::new("10.0.13", "exit 0");
    for options in [["--machine=microvm", "--smp=1"], ["--machine=virt", "--transport=mmio"]] {
        let mut command = Command::new(OUTBOARD);
        command.args(["vm", "--print", "--qemu"]).arg(stage.path("qemu")).args(options);
        let text = stdout(&command.output().unwrap());
        assert!(text.contains("-global virtio-mmio.force-legacy=false"), "{text}");
        assert!(text.contains("-device vhost-user-blk,id=blk0,chardev=blk0,num-queues=1"), "{text}");
        assert!(text.contains("-device vhost-user-rng,id=rng0,chardev=rng0"), "{text}");
    }
    let output = stage.vm(&["--print", "--transport=mmio"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("q35 has no virtio-mmio"), "{}", stderr(&output));
}

#[test]
fn qemu_that_is_missing_is_an_error_that_names_packages() {
    let empty = tempfile::tempdir().unwrap();
    let run = |machine: &str| {
        // An architecture that is not this host's, so that no hidden QEMU is found either.
        Command::new(OUTBOARD).args(["vm", "--machine", machine]).env("PATH", empty.path()).output().unwrap()
    };
    let (machine, package) =
        if cfg!(target_arch = "x86_64") { ("virt", "qemu-system-arm") } else { ("q35", "qemu-system-x86") };
    let output = run(machine);
    assert_eq!(output.status.code(), Some(1));
    for word in ["install QEMU", package, "Fedora", "--qemu"] {
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    let output = Command::new(OUTBOARD).args(["vm", "--qemu", "/nonexistent/qemu"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no /nonexistent/qemu"), "{}", stderr(&output));
}

#[test]
fn print_libvirt_has_disks_as_disks_and_the_rest_as_arguments() {
    let mut command = Command::new(OUTBOARD);
    command.args(["vm", "--print-libvirt", "--smp=2", "--directory=/run/a&b"]);
    let output = command.args(["--device=blk=a.img", "--device=rng", "--device=blk=b.img"]).output().unwrap();
    let expected = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <devices>
    <disk type='vhostuser' device='disk'>
      <driver name='qemu' type='raw' queues='2'/>
      <source type='unix' path='/run/a&amp;b/blk0.sock'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='vhostuser' device='disk'>
      <driver name='qemu' type='raw' queues='2'/>
      <source type='unix' path='/run/a&amp;b/blk1.sock'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <target dev='vdb' bus='virtio'/>
    </disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=rng0,path=/run/a&amp;b/rng0.sock'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='vhost-user-rng-pci,id=rng0,chardev=rng0'/>
  </qemu:commandline>
</domain>
";
    assert_eq!(stdout(&output), expected);
    let said = stderr(&output);
    for name in ["run blk --socket-path '/run/a&b/blk0.sock'", "--blk-file=b.img", "run rng"] {
        assert!(said.contains(name), "{said}");
    }
}

/// `outboard discovery` into `out`.
fn discovery(out: &Path, bindir: &str) -> Output {
    Command::new(OUTBOARD).args(["discovery", "--bindir", bindir, "--out"]).arg(out).output().unwrap()
}

#[test]
fn discovery_writes_files_as_the_schema_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("share/qemu/vhost-user");
    // Twice: the second time it replaces them.
    discovery(&out, "/opt/elsewhere");
    let said = stdout(&discovery(&out, "/usr/libexec/outboard"));
    let mut paths: Vec<PathBuf> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert_eq!(said.lines().map(PathBuf::from).collect::<Vec<_>>(), paths);
    let names =
        ["blk", "console", "input", "net", "rng", "vsock"].map(|name| format!("50-outboard-{name}.json"));
    assert_eq!(paths, names.map(|name| out.join(name)));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("}\n") && text.starts_with("{\n"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o644, 0o644);
        let entry: Value = serde_json::from_str(&text).unwrap();
        let entry = entry.as_object().unwrap();
        for key in entry.keys() {
            assert!(["description", "type", "binary", "tags"].contains(&key.as_str()), "{key}");
        }
        let word = |key: &str| entry[key].as_str().unwrap();
        assert!(outboard_daemon::SCHEMA_TYPES.contains(&word("type")), "{text}");
        assert!(!word("description").is_empty());
        let binary = Path::new(word("binary"));
        let name = binary.file_name().unwrap().to_str().unwrap();
        assert_eq!(binary.parent().unwrap(), Path::new("/usr/libexec/outboard"));
        // The file's name says which program it is.
        let device = path.file_stem().unwrap().to_str().unwrap().strip_prefix("50-outboard-").unwrap();
        assert_eq!(name, format!("vhost-user-{device}"));
        assert!(entry["tags"].as_array().unwrap().iter().all(Value::is_string));
        // The program of that name is of that type.
        let said = Command::new(OUTBOARD).args(["run", device, "--print-capabilities"]).output().unwrap();
        let capabilities: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(capabilities["type"], entry["type"]);
    }
}

#[test]
fn discovery_of_a_relative_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = discovery(dir.path(), "target/release");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("absolute"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

use super::*;
use crate::house::Nothing;
use crate::logging::LogLevel;
use crate::program::tests::Known;
use std::io::Write;

fn plan(args: &[&str]) -> Result<Plan<Known, Nothing>, String> {
    let args = std::iter::once("vhost-user-blk").chain(args.iter().copied()).map(OsString::from);
    parse::<Known, Nothing>(args.collect()).map_err(|error| error.to_string())
}

fn wrong(args: &[&str]) -> String {
    match plan(args) {
        Ok(_) => panic!("{args:?} is accepted"),
        Err(reason) => reason,
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn option(file: &tempfile::NamedTempFile) -> String {
    format!("--config={}", file.path().display())
}

#[test]
fn plan_commands_are_consistent() {
    device_command::<Known>().debug_assert();
    process_command::<Known, Nothing>().debug_assert();
}

#[test]
fn plan_of_one_device_is_unnamed_unless_it_is_named() {
    let one = plan(&["--fd=3"]).unwrap();
    assert_eq!((one.devices[0].name.as_str(), one.devices[0].shown), ("blk0", false));
    let one = plan(&["--fd=3", "--name=root"]).unwrap();
    assert_eq!((one.devices[0].name.as_str(), one.devices[0].shown), ("root", true));
}

#[test]
fn plan_of_devices_from_file_and_command_line_has_them_in_that_order() {
    let file = file(
        "log-level = 'error'\ncontrol = '/c'\n[[device]]\nfd = 3\nblk-file = 'a,b'\nread-only = true\n\
         poll = 'adaptive'\npoll-us = 7\n[[device]]\nname = 'x'\nsocket-path = '/s'\nread-only = false\n",
    );
    let devices = ["--device", "blk-file=c,,d,fd=4,read-only", "--device=name=y,fd=5"];
    let plan = plan(&[&[option(&file).as_str()], &devices[..]].concat()).unwrap();
    let names: Vec<&str> = plan.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["blk0", "x", "blk2", "y"]);
    assert!(plan.devices.iter().all(|device| device.shown));
    assert_eq!(plan.devices[0].own.blk_file.as_deref(), Some("a,b"));
    assert!(plan.devices[0].own.read_only && !plan.devices[1].own.read_only && plan.devices[2].own.read_only);
    assert!(format!("{:?}", plan.devices[0].options.backend()).contains("7µs"));
    assert_eq!(plan.devices[2].own.blk_file.as_deref(), Some("c,d"));
    assert_eq!(plan.devices[2].options.fd, Some(4));
    assert_eq!(plan.process.log_level, LogLevel::Error);
    assert_eq!(plan.process.control.as_deref(), Some(Path::new("/c")));
}

#[test]
fn plan_command_line_goes_before_the_settings_of_the_file() {
    let file = file("log-level = 'error'\ncontrol = '/c'\n[[device]]\nfd = 3\n");
    let plan = plan(&[&option(&file), "--log-level=debug"]).unwrap();
    assert_eq!(plan.process.log_level, LogLevel::Debug);
    assert_eq!(plan.process.control.as_deref(), Some(Path::new("/c")));
}

#[test]
fn plan_with_a_wrong_option_says_which_device_and_why() {
    let one = "--device=fd=3";
    for (second, reason) in [
        ("fd=x", "--device 2: invalid value 'x' for '--fd <N>'"),
        ("fd=2", "--device 2: invalid value '2'"),
        ("blkfile=x,fd=4", "--device 2: unexpected argument '--blkfile'"),
        ("fd=4,blk-file", "--device 2: a value is required for '--blk-file <PATH>'"),
        ("fd=4,fd=5", "--device 2: the argument '--fd <N>' cannot be used multiple times"),
        ("fd=4,read-only=maybe", "--device 2: read-only: on or off"),
        ("fd=4,poll=off,poll-us=9", "--device 2: --poll-us and --poll-budget are for"),
        ("blk-file=x", "--device 2: the following required arguments were not provided"),
        ("fd=4,log-level=debug", "--device 2: unexpected argument '--log-level'"),
        ("fd=4,device=x", "--device 2: unexpected argument '--device'"),
        ("fd=4,help", "--device 2: unexpected argument '--help'"),
        ("fd=4,name=a b", "--device 2: invalid value 'a b' for '--name <NAME>'"),
        ("fd=4,", "--device 2: a key is missing"),
        ("fd=3", "blk0 and blk1 have the same descriptor 3"),
        ("fd=4,name=blk0", "blk0 and blk0 have the same name blk0"),
    ] {
        let error = wrong(&[one, "--device", second]);
        assert!(error.starts_with(&format!("error: {reason}")), "{second}: {error}");
        assert_eq!(error.matches("Usage:").count(), 1, "{error}");
    }
    let twice = wrong(&["--device=socket-path=/s", "--device=socket-path=/s"]);
    assert!(twice.contains("the same socket /s"), "{twice}");
    let control = wrong(&["--fd=3", "--control=/s", "--name=--x"]);
    assert!(control.contains("--name"), "{control}");
    let control = wrong(&["--socket-path=/s", "--control=/s"]);
    assert!(control.contains("--control and blk0 have the same socket /s"), "{control}");
}

#[test]
fn plan_with_a_device_option_beside_devices_says_where_it_belongs() {
    let error = wrong(&["--device=fd=3", "--blk-file=x"]);
    assert!(error.contains("--blk-file is for one device"), "{error}");
    let error = wrong(&["--device=fd=3", "--nonsense"]);
    assert!(error.contains("unexpected argument '--nonsense'"), "{error}");
    let help = wrong(&["--device=fd=3", "--help"]);
    assert!(help.contains("--blk-file <PATH>") && help.contains("--device <KEY=VALUE,...>"), "{help}");
}

#[test]
fn plan_with_a_wrong_file_says_where() {
    let path = |file: &tempfile::NamedTempFile| file.path().display().to_string();
    assert!(wrong(&["--config=/nonexistent"]).contains("cannot read /nonexistent: No such file"));
    for (text, reason) in [
        ("[[device]]\nfd = 3\n[[device]]\nfd = 'x'\n", "device 2: invalid value 'x'"),
        ("[[device]]\nfd = 3\nsize = {}\n", "device 1: size: a text"),
        ("log-level = 'loud'\n[[device]]\nfd = 3\n", "invalid value 'loud' for '--log-level"),
        ("engine = 'epoll'\n[[device]]\nfd = 3\n", "engine is no setting of the process"),
        ("[[device]\nfd = 3\n", "line 1: "),
        ("", "no device"),
    ] {
        let file = file(text);
        let error = wrong(&[&option(&file)]);
        assert!(error.contains(&format!("{}: {reason}", path(&file))), "{text}: {error}");
    }
    let file = file("log-level = 'loud'\n[[device]]\nfd = 3\n");
    assert!(
        plan(&[&option(&file), "--log-level=info"]).is_ok(),
        "what the command line says is not looked for"
    );
}

#[derive(Debug, Args)]
struct HouseArgs {
    /// What they share
    #[arg(long, value_name = "N", default_value_t = 1)]
    rooms: u8,
}

fn rooms(args: &[&str]) -> Result<(u8, usize), String> {
    let args = std::iter::once("vhost-user-blk").chain(args.iter().copied()).map(OsString::from);
    let plan = parse::<Known, HouseArgs>(args.collect()).map_err(|error| error.to_string())?;
    Ok((plan.house.rooms, plan.devices.len()))
}

#[test]
fn plan_options_of_the_house_are_the_processs() {
    let file = file("rooms = 2\n[[device]]\nfd = 3\n");
    let config = option(&file);
    assert_eq!(rooms(&["--fd=3"]), Ok((1, 1)));
    assert_eq!(rooms(&["--fd=3", "--rooms=3"]), Ok((3, 1)));
    assert_eq!(rooms(&["--rooms=3", "--device=fd=3", "--device=fd=4"]), Ok((3, 2)));
    assert_eq!(rooms(&[&config]), Ok((2, 1)));
    assert_eq!(rooms(&[&config, "--rooms=3"]), Ok((3, 1)));
    assert!(rooms(&["--device=fd=3,rooms=3"]).unwrap_err().contains("--rooms"));
    command::<Known, HouseArgs>().debug_assert();
    let help = command::<Known, HouseArgs>().render_long_help().to_string();
    assert!(help.contains("Process:\n      --rooms <N>"), "{help}");
}

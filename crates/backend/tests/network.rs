//! What the protocol has for devices that are part of a network, and for no others.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::sync::{Arc, Mutex};

use outboard_backend::{Backend, Options};
use outboard_device::{Device, DeviceError, Features, Group, Profile, defs::DeviceId};
use outboard_frontend::{Frontend, Options as FrontendOptions, PROTOCOL_FEATURES, Wishes};
use outboard_vhost_user::{ProtocolFeatures, Request};
use rig::{Script, Server, eventually};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// What was announced so far.
type Announced = Arc<Mutex<Vec<[u8; 6]>>>;

/// A device whose configuration space is its MTU, of two bytes.
struct Network {
    profile: Profile,
    config: [u8; 2],
    announced: Announced,
}

impl Device for Network {
    type Handler = Script;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<Script, DeviceError> {
        Ok(Script::new(|chain, cx| cx.done(chain)))
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<(), DeviceError> {
        let mtu = u16::try_from(mtu).map_err(|_| DeviceError::Invalid("too large".to_owned()))?;
        self.config = mtu.to_le_bytes();
        Ok(())
    }

    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        self.announced.lock().unwrap().push(mac);
        Ok(())
    }
}

/// A connection to such a device, of which the front end would agree to everything.
fn connect(profile: Profile) -> (Server<Network>, Frontend, Announced) {
    let announced = Arc::default();
    let profile = profile.queue("queue", 16);
    let device = Network { profile, config: [0; 2], announced: Arc::clone(&announced) };
    let (server, stream) = Server::start(Backend::new(device, Options::default()).unwrap());
    let protocol = PROTOCOL_FEATURES | ProtocolFeatures::MTU | ProtocolFeatures::RARP;
    let frontend = Frontend::from_stream(stream, FrontendOptions { protocol, ..Default::default() }).unwrap();
    (server, frontend, announced)
}

fn config(frontend: &mut Frontend) -> u16 {
    let mut bytes = [0; 2];
    frontend.read_config(0, &mut bytes).unwrap();
    u16::from_le_bytes(bytes)
}

#[test]
fn mtu_that_is_set_is_in_the_configuration_space_and_the_driver_is_told() {
    let (server, mut frontend, _) = connect(Profile::new(DeviceId::NET, "network").network());
    frontend.agree(&Wishes::default()).unwrap();
    let queue = frontend.start(0, 16).unwrap();
    frontend.ask(Request::NetSetMtu(1500)).unwrap();
    assert_eq!(config(&mut frontend), 1500);
    eventually("the driver is told", || frontend.listen().unwrap().config_changes == 1);
    frontend.ask(Request::NetSetMtu(1500)).unwrap();
    assert!(frontend.ask(Request::NetSetMtu(1 << 20)).unwrap_err().is_nack());
    assert_eq!(config(&mut frontend), 1500);
    assert_eq!(frontend.listen().unwrap().config_changes, 1, "it is as it was");
    drop((queue, frontend));
    server.end().1.unwrap();
}

#[test]
fn guest_that_was_moved_is_announced() {
    let (server, mut frontend, announced) = connect(Profile::new(DeviceId::NET, "network").network());
    frontend.ask(Request::SendRarp(MAC)).unwrap();
    assert_eq!(*announced.lock().unwrap(), [MAC]);
    drop(frontend);
    server.end().1.unwrap();
}

#[test]
fn device_in_no_network_offers_none_of_it() {
    let (server, mut frontend, announced) = connect(Profile::new(DeviceId(42), "other"));
    assert!(!frontend.protocol().contains(ProtocolFeatures::MTU));
    assert!(!frontend.protocol().contains(ProtocolFeatures::RARP));
    frontend.ask(Request::NetSetMtu(1500)).unwrap_err();
    frontend.ask(Request::SendRarp(MAC)).unwrap_err();
    assert_eq!(config(&mut frontend), 0);
    assert!(announced.lock().unwrap().is_empty());
    drop(frontend);
    server.end().1.unwrap();
}

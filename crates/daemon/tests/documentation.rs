//! The guide for device authors shows a program that exists.

#[test]
fn guide_shows_the_example_as_it_is() {
    let guide = include_str!("../../../docs/writing-a-device.md");
    let example = include_str!("../examples/vhost-user-shout.rs");
    assert!(guide.contains(example), "copy examples/vhost-user-shout.rs into docs/writing-a-device.md");
}

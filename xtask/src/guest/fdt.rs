//! Device trees: what QEMU writes of a machine, with nodes added. The format is that of the Devicetree Specification 0.4,
//! chapter 5: a header, and two blocks, of tokens and of names. Trusts QEMU.

use anyhow::{Context, Result, ensure};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;

/// Where the header has what is changed here, in words: sizes and places of the tree and of its blocks.
const TOTAL: usize = 1;
const STRUCTURE: usize = 2;
const STRINGS: usize = 3;
const STRINGS_SIZE: usize = 8;
const STRUCTURE_SIZE: usize = 9;

/// A node to be added.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) properties: Vec<(&'static str, Vec<u8>)>,
    pub(super) children: Vec<Node>,
}

impl Node {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(super) fn words(mut self, name: &'static str, words: &[u32]) -> Self {
        self.properties.push((name, bytes_of(words)));
        self
    }

    pub(super) fn text(mut self, name: &'static str, text: &str) -> Self {
        self.properties.push((name, [text.as_bytes(), &[0]].concat()));
        self
    }

    pub(super) fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }
}

/// A property's value: cells.
pub(super) fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A tree in parts.
pub(super) struct Tree {
    /// The header, and what lies between it and the tokens.
    front: Vec<u8>,
    tokens: Vec<u8>,
    names: Vec<u8>,
}

impl Tree {
    /// Takes a tree apart.
    pub(super) fn parse(blob: &[u8]) -> Result<Self> {
        let word = |index: usize| word_at(blob, index * 4).map(|word| word as usize);
        ensure!(word_at(blob, 0)? == MAGIC, "no device tree");
        let block = |at: usize, size: usize| {
            blob.get(at..at + size).map(<[u8]>::to_vec).context("a device tree that ends early")
        };
        let tokens = block(word(STRUCTURE)?, word(STRUCTURE_SIZE)?)?;
        let names = block(word(STRINGS)?, word(STRINGS_SIZE)?)?;
        Ok(Self { front: block(0, word(STRUCTURE)?)?, tokens, names })
    }

    /// Puts it together again.
    pub(super) fn into_blob(mut self) -> Result<Vec<u8>> {
        let (front, tokens, names) = (self.front.len(), self.tokens.len(), self.names.len());
        let numbers = [
            (TOTAL, front + tokens + names),
            (STRINGS, front + tokens),
            (STRINGS_SIZE, names),
            (STRUCTURE_SIZE, tokens),
        ];
        for (index, number) in numbers {
            let field = self.front.get_mut(index * 4..index * 4 + 4).context("a short header")?;
            field.copy_from_slice(&u32::try_from(number)?.to_be_bytes());
        }
        Ok([self.front, self.tokens, self.names].concat())
    }

    /// Adds a node to the root.
    pub(super) fn add(&mut self, node: &Node) -> Result<()> {
        // The root's end is the last token but one.
        let at = self.tokens.len().checked_sub(8).context("a tree without a root")?;
        ensure!(
            (word_at(&self.tokens, at)?, word_at(&self.tokens, at + 4)?) == (END_NODE, END),
            "an odd end"
        );
        let mut added = Vec::new();
        self.render(node, &mut added)?;
        self.tokens.splice(at..at, added);
        Ok(())
    }

    /// Adds a property to the first node of this name, in full.
    pub(super) fn set(&mut self, node: &str, property: &'static str, value: &[u8]) -> Result<()> {
        let begin = [&BEGIN_NODE.to_be_bytes()[..], node.as_bytes(), &[0]].concat();
        let found = self.tokens.windows(begin.len()).position(|window| window == begin);
        let at = (found.with_context(|| format!("no node {node}"))? + begin.len()).next_multiple_of(4);
        let mut added = Vec::new();
        self.property(property, value, &mut added)?;
        self.tokens.splice(at..at, added);
        Ok(())
    }

    fn render(&mut self, node: &Node, to: &mut Vec<u8>) -> Result<()> {
        to.extend(BEGIN_NODE.to_be_bytes());
        to.extend(node.name.as_bytes());
        to.push(0);
        to.resize(to.len().next_multiple_of(4), 0);
        for (name, value) in &node.properties {
            self.property(name, value, to)?;
        }
        for child in &node.children {
            self.render(child, to)?;
        }
        to.extend(END_NODE.to_be_bytes());
        Ok(())
    }

    fn property(&mut self, name: &str, value: &[u8], to: &mut Vec<u8>) -> Result<()> {
        let at = self.names.len();
        self.names.extend(name.as_bytes());
        self.names.push(0);
        to.extend(bytes_of(&[PROP, u32::try_from(value.len())?, u32::try_from(at)?]));
        to.extend(value);
        to.resize(to.len().next_multiple_of(4), 0);
        Ok(())
    }
}

fn word_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).context("a device tree that ends early")?;
    Ok(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with a root and a node `cpu@0`, made by hand.
    fn tree() -> Vec<u8> {
        let name = |name: &str| {
            let mut bytes = [name.as_bytes(), &[0]].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let begin = bytes_of(&[BEGIN_NODE]);
        let end = bytes_of(&[END_NODE]);
        let tokens = [&begin, &name(""), &begin, &name("cpu@0"), &end, &end, &bytes_of(&[END])]
            .map(Vec::as_slice)
            .concat();
        let (front, size) = (40 + 16, u32::try_from(tokens.len()).unwrap());
        let header = [MAGIC, front + size, front, front + size, 40, 17, 16, 0, 0, size];
        [bytes_of(&header), vec![0; 16], tokens].concat()
    }

    #[test]
    fn tree_that_is_left_alone_stays_as_it_was() {
        assert_eq!(Tree::parse(&tree()).unwrap().into_blob().unwrap(), tree());
    }

    #[test]
    fn nodes_and_properties_are_added_in_their_places() {
        let mut changed = Tree::parse(&tree()).unwrap();
        changed.set("cpu@0", "clocks", &bytes_of(&[7])).unwrap();
        changed.add(&Node::new("a").text("b", "x").child(Node::new("c"))).unwrap();
        let changed = Tree::parse(&changed.into_blob().unwrap()).unwrap();
        assert_eq!(changed.names, b"clocks\0b\0");
        let text = u32::from_be_bytes(*b"x\0\0\0");
        let [a, c] = ["a", "c"].map(|name| u32::from_be_bytes([name.as_bytes()[0], 0, 0, 0]));
        let [cpu, at_0] = [u32::from_be_bytes(*b"cpu@"), u32::from_be_bytes(*b"0\0\0\0")];
        let expected = [
            BEGIN_NODE, 0, BEGIN_NODE, cpu, at_0, PROP, 4, 0, 7, END_NODE, BEGIN_NODE, a, PROP, 2, 7, text,
            BEGIN_NODE, c, END_NODE, END_NODE, END_NODE, END,
        ];
        assert_eq!(changed.tokens, bytes_of(&expected));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        assert!(Tree::parse(b"").is_err());
        assert!(Tree::parse(&[0; 64]).is_err());
        assert!(Tree::parse(&tree()[..60]).is_err());
        assert!(Tree::parse(&tree()).unwrap().set("cpu@1", "x", &[]).is_err());
    }
}

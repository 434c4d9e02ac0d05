//! Strings that are encoded with HPACK's Huffman code (RFC 7541 §5.2, Appendix B).

/// Bits of each octet's code. The code is canonical: codes of one length follow each other in the order of their octets.
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Length of the longest code; the end of a string has the last one of them.
const LONGEST: u8 = 30;

/// Inner nodes of the tree of the code: one fewer than octets and the end have codes.
const NODES: usize = 256;

/// Child of a node that is an octet; below it are nodes.
const LEAF: u16 = 0x100;

/// Child of a node that is the end of a string, which must not be in one.
const END: u16 = 0x200;

/// Four bits more of a string, from a node on.
#[derive(Clone, Copy)]
struct Step {
    node: u8,
    octet: u8,
    /// An octet is complete with these bits. No code is shorter than five, so there is one at most.
    gives: bool,
    fails: bool,
}

const TREE: [[u16; 2]; NODES] = tree();
static STEPS: [[Step; 16]; NODES] = steps();

/// The nodes at which a string may end: fewer than eight ones behind an octet.
static ENDS: [bool; NODES] = ends();

const fn tree() -> [[u16; 2]; NODES] {
    let mut tree = [[0; 2]; NODES];
    let (mut nodes, mut code, mut bits) = (1_u16, 0_u32, 1);
    while bits <= LONGEST {
        code <<= 1;
        let mut octet = 0;
        while octet <= 256 {
            let of_octet = if octet < 256 { BITS[octet] } else { LONGEST };
            if of_octet == bits {
                let (mut node, mut left) = (0, bits);
                while left > 1 {
                    left -= 1;
                    let bit = (code >> left & 1) as usize;
                    if tree[node][bit] == 0 {
                        tree[node][bit] = nodes;
                        nodes += 1;
                    }
                    node = tree[node][bit] as usize;
                }
                tree[node][(code & 1) as usize] = match octet {
                    256 => END,
                    octet => LEAF + octet as u16,
                };
                code += 1;
            }
            octet += 1;
        }
        bits += 1;
    }
    tree
}

const fn steps() -> [[Step; 16]; NODES] {
    const NONE: Step = Step {
        node: 0,
        octet: 0,
        gives: false,
        fails: false,
    };
    let mut steps = [[NONE; 16]; NODES];
    let mut from = 0;
    while from < NODES {
        let mut four = 0;
        while four < 16 {
            let mut step = NONE;
            let (mut node, mut left) = (from, 4);
            while left > 0 {
                left -= 1;
                let child = TREE[node][four >> left & 1];
                node = match child {
                    END => 0,
                    LEAF.. => 0,
                    node => node as usize,
                };
                if child == END {
                    step.fails = true;
                } else if child >= LEAF {
                    step.gives = true;
                    step.octet = (child - LEAF) as u8;
                }
            }
            step.node = node as u8;
            steps[from][four] = step;
            four += 1;
        }
        from += 1;
    }
    steps
}

const fn ends() -> [bool; NODES] {
    let mut ends = [false; NODES];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        ends[node] = true;
        node = TREE[node][1] as usize;
        ones += 1;
    }
    ends
}

/// Decodes a string octet by octet. `None` if it is not one.
pub(super) fn decode(encoded: &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    let mut node = 0_u8;
    let mut fails = false;
    for byte in encoded {
        for four in [byte >> 4, byte & 0xf] {
            let step = STEPS[usize::from(node)][usize::from(four)];
            if step.gives {
                each(step.octet);
            }
            fails |= step.fails;
            node = step.node;
        }
    }
    (!fails && ENDS[usize::from(node)]).then_some(())
}

#[cfg(test)]
pub(super) fn encode(octets: &[u8]) -> Vec<u8> {
    let (mut encoded, mut bits, mut length) = (Vec::new(), 0_u64, 0);
    for octet in octets {
        let of_octet = BITS[usize::from(*octet)];
        bits = bits << of_octet | u64::from(code(*octet));
        length += of_octet;
        while length >= 8 {
            length -= 8;
            encoded.push((bits >> length & 0xff) as u8);
        }
    }
    if length > 0 {
        let padding = 8 - length;
        encoded.push((bits << padding & 0xff) as u8 | ((1 << padding) - 1));
    }
    encoded
}

#[cfg(test)]
fn code(octet: u8) -> u32 {
    static CODES: std::sync::LazyLock<Vec<u32>> = std::sync::LazyLock::new(|| {
        let mut sorted: Vec<_> = BITS.into_iter().zip(0..=255_u8).collect();
        sorted.sort_unstable();
        let (mut codes, mut code, mut last) = (vec![0; 256], 0, 1);
        for (bits, octet) in sorted {
            code <<= bits - last;
            last = bits;
            codes[usize::from(octet)] = code;
            code += 1;
        }
        codes
    });
    CODES[usize::from(octet)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut octets = Vec::new();
        decode(encoded, |octet| octets.push(octet)).map(|()| octets)
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.4.1, C.6.1.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&host).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(code(10), 0x3fff_fffc);
        assert_eq!(code(b'~'), 0x1ffd);
        assert_eq!(encode(b"www.example.com"), host);
    }

    #[test]
    fn every_octet_comes_back() {
        let all: Vec<_> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for octet in 0..=255 {
            for length in 0..9 {
                let some = vec![octet; length];
                assert_eq!(decoded(&encode(&some)).unwrap(), some);
            }
        }
    }

    #[test]
    fn padding_and_the_end() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        assert_eq!(decoded(&[0x07]).unwrap(), b"0");
        // Padding of eight ones; of zeros; the code of the end.
        assert_eq!(decoded(&[0xff]), None);
        assert_eq!(decoded(&[0x00]), None);
        assert_eq!(decoded(&[0xff; 4]), None);
    }
}

//! Problems with their own memory, made from a seed.

use crate::common::{TestExecutor, given};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::Float;
use twofour::glu::{Activation, Backward, Forward, Joined, words};

/// How gate and up lie, and where what is made of them goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Apart,
    /// In the place of what is read.
    Over,
    Joined(Joined),
    OverJoined(Joined),
}

impl Lie {
    pub(crate) const ALL: [Self; 6] = [
        Self::Apart,
        Self::Over,
        Self::Joined(Joined::Halves),
        Self::Joined(Joined::Pairs),
        Self::OverJoined(Joined::Halves),
        Self::OverJoined(Joined::Pairs),
    ];
}

#[derive(Debug, Clone)]
pub(crate) struct Case<L> {
    pub(crate) tokens: usize,
    pub(crate) neurons: usize,
    pub(crate) activation: Activation,
    pub(crate) lie: Lie,
    pub(crate) gate: Vec<L>,
    pub(crate) up: Vec<L>,
    pub(crate) dh: Vec<L>,
    /// Whether the backward pass is given the mask.
    pub(crate) masked: bool,
    pub(crate) l1: f32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made<L> {
    pub(crate) h: Vec<L>,
    pub(crate) mask: Vec<u32>,
    pub(crate) active: Vec<u32>,
    pub(crate) lost: Vec<u32>,
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

const SPECIAL: [f32; 9] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40, 3.3e38, -3.3e38];

/// Normal numbers, special ones among them.
pub(crate) fn numbers<L: Float>(rng: &mut StdRng, count: usize, special: bool) -> Vec<L> {
    let mut number = || match special && rng.random_ratio(1, 8) {
        true => SPECIAL[rng.random_range(0..SPECIAL.len())],
        false => 2.0 * rng.sample::<f32, _>(StandardNormal),
    };
    (0..count).map(|_| L::from_f32(number())).collect()
}

pub(crate) fn activation(number: u64) -> Activation {
    [
        Activation::SwiGlu,
        Activation::DRelu,
        Activation::ReGlu,
        Activation::FatRelu(0.7),
        Activation::FatRelu(-0.3),
        Activation::Cats(0.2),
        Activation::Cats(0.5),
        Activation::Cats(0.0),
    ][number as usize % 8]
}

/// A row of gate and up as it lies in one array.
pub(crate) fn join<L: Float>(by: Joined, neurons: usize, gate: &[L], up: &[L]) -> Vec<L> {
    if neurons == 0 {
        return vec![];
    }
    let rows = gate.chunks(neurons).zip(up.chunks(neurons));
    match by {
        Joined::Halves => rows.flat_map(|(gate, up)| [gate, up].concat()).collect(),
        Joined::Pairs => rows.flat_map(|(gate, up)| gate.iter().zip(up).flat_map(|(g, u)| [*g, *u])).collect(),
    }
}

/// And back.
pub(crate) fn part<L: Float>(by: Joined, neurons: usize, both: &[L]) -> [Vec<L>; 2] {
    let place = |i: usize, which: usize| match by {
        Joined::Halves => i / neurons * 2 * neurons + which * neurons + i % neurons,
        Joined::Pairs => 2 * i + which,
    };
    [0, 1].map(|which| (0..both.len() / 2).map(|i| both[place(i, which)]).collect())
}

impl<L: Float> Case<L> {
    /// By chance; `tall` for rows that are longer than a block's step.
    pub(crate) fn new(seed: u64, tall: bool) -> Self {
        let mut rng = rng(seed);
        let tokens = rng.random_range(1..5);
        let neurons = match tall {
            true => rng.random_range(2000..4500),
            false if rng.random_ratio(1, 2) => 8 * rng.random_range(1..20),
            false => rng.random_range(1..100),
        };
        let (lie, special) = (Lie::ALL[rng.random_range(0..6)], rng.random_ratio(1, 2));
        let [gate, up, dh] = [special, special, false].map(|special| numbers(&mut rng, tokens * neurons, special));
        let (activation, masked) = (activation(rng.random()), rng.random());
        let l1 = [0.0, 0.3][rng.random_range(0..2)];
        Self { tokens, neurons, activation, lie, gate, up, dh, masked, l1 }
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.tokens, self.neurons]
    }

    pub(crate) fn forward<E: TestExecutor>(&self, on: &mut E) -> Made<L> {
        let (gate, mut up) = (on.upload(&self.gate).unwrap(), on.upload(&self.up).unwrap());
        let mut h = on.poisoned::<L>(self.gate.len());
        let mut mask = on.poisoned::<u32>(self.tokens * words(self.neurons));
        let [mut active, mut lost] = [0, 1].map(|_| on.poisoned::<u32>(self.tokens));
        let (shape, activation, over) = (self.shape(), self.activation, self.lie == Lie::Over);
        let both = match self.lie {
            Lie::Joined(by) | Lie::OverJoined(by) => Some((by, join(by, self.neurons, &self.gate, &self.up))),
            Lie::Apart | Lie::Over => None,
        };
        let both = both.map(|(by, both)| (by, on.upload(&both).unwrap()));
        let pass = match &both {
            Some((by, both)) => Forward::joined(shape, activation, *by, E::input(both), E::output(&mut h)),
            None if over => Forward::over_up(shape, activation, E::input(&gate), E::output(&mut up)),
            None => Forward::new(shape, activation, E::input(&gate), E::input(&up), E::output(&mut h)),
        };
        let pass = pass.mask(E::output(&mut mask)).active(E::output(&mut active));
        on.run(pass.lost(E::output(&mut lost))).unwrap();
        let read = |words| on.download(words).unwrap();
        let h = on.download(if over { &up } else { &h }).unwrap();
        Made { h, mask: read(&mask), active: read(&active), lost: read(&lost) }
    }

    /// Gradients of gate and up, by a mask if one is given.
    pub(crate) fn backward<E: TestExecutor>(&self, on: &mut E, mask: Option<&Vec<u32>>) -> [Vec<L>; 2] {
        let [dh, mut gate, mut up] = [&self.dh, &self.gate, &self.up].map(|of| on.upload(of).unwrap());
        let [mut dgate, mut dup] = [0, 1].map(|_| on.poisoned::<L>(self.gate.len()));
        let mask = mask.map(|mask| on.upload(mask).unwrap());
        let (shape, activation, neurons) = (self.shape(), self.activation, self.neurons);
        let (Lie::Joined(by) | Lie::OverJoined(by)) = self.lie else {
            let over = self.lie == Lie::Over;
            let pass = match over {
                true => Backward::over(shape, activation, E::input(&dh), E::output(&mut gate), E::output(&mut up)),
                false => {
                    let to = (E::output(&mut dgate), E::output(&mut dup));
                    Backward::new(shape, activation, E::input(&dh), E::input(&gate), E::input(&up), to.0, to.1)
                }
            };
            on.run(given!(pass.l1(self.l1), mask: mask.as_ref().map(E::input))).unwrap();
            return if over { [gate, up] } else { [dgate, dup] }.map(|of| on.download(&of).unwrap());
        };
        let mut both = on.upload(&join(by, neurons, &self.gate, &self.up)).unwrap();
        let mut to = on.poisoned::<L>(2 * self.gate.len());
        let over = matches!(self.lie, Lie::OverJoined(_));
        let pass = match over {
            true => Backward::over_joined(shape, activation, by, E::input(&dh), E::output(&mut both)),
            false => Backward::joined(shape, activation, by, E::input(&dh), E::input(&both), E::output(&mut to)),
        };
        on.run(given!(pass.l1(self.l1), mask: mask.as_ref().map(E::input))).unwrap();
        part(by, neurons, &on.download(if over { &both } else { &to }).unwrap())
    }
}

//! What passes of `compress` are given, and how they are run.

use crate::any::Wide;
use crate::common::{TestExecutor, given};
use std::any::TypeId;
use twofour::compress::{Layout, Pack, Reorder, Sparsity, Unpack};
use twofour::mask::{Kind, Sampling};
use twofour::space::Host;
use twofour::{DType, Error, Executor, Logit, Shape, Shard};

/// What to keep, but for logits.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    Codes(Vec<u8>),
    Magnitude,
    NonZeros,
}

/// What to keep, by logits.
#[derive(Debug, Clone)]
pub(crate) struct Draw<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) shard: Shard,
}

/// A weight to compress, and which outputs are wanted: values, metadata, codes, masked.
#[derive(Debug, Clone)]
pub(crate) struct Dense<T> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) dense: Vec<T>,
    pub(crate) wants: [bool; 4],
}

/// What was written; empty where nothing was wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outputs<T> {
    pub(crate) values: Vec<T>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) codes: Vec<u8>,
    pub(crate) masked: Vec<T>,
    pub(crate) faults: u32,
}

/// What a count is before it is added to.
const BEFORE: u32 = 7;

/// Whether what comes in without a legal code is an error: not on a device, where nobody is there to return one to.
pub(crate) fn names_what_is_wrong<E: Executor>(_: &E) -> bool {
    TypeId::of::<E::Space>() == TypeId::of::<Host>()
}

/// The outputs of a case in an executor's memory.
struct Arrays<E: Executor, T: Wide> {
    values: Option<E::Buffer<T>>,
    metadata: Option<E::Buffer<u8>>,
    codes: Option<E::Buffer<u8>>,
    masked: Option<E::Buffer<T>>,
    faults: E::Buffer<u32>,
}

impl<E: TestExecutor, T: Wide> Arrays<E, T> {
    fn new(on: &E, case: &Dense<T>) -> Self {
        let sizes = case.layout.sizes(case.shape, T::DTYPE).unwrap();
        let [values, metadata, codes, masked] = case.wants;
        Self {
            values: values.then(|| on.poisoned(sizes.values)),
            metadata: metadata.then(|| on.poisoned(sizes.metadata)),
            codes: codes.then(|| on.poisoned(Sparsity::of(T::DTYPE).packed_codes(case.shape))),
            masked: masked.then(|| on.poisoned(case.shape.weights())),
            faults: on.upload(&[BEFORE]).unwrap(),
        }
    }

    fn run<'a, L: Logit>(&'a mut self, on: &mut E, pass: Pack<'a, E::Space, T, L>) -> Result<(), Error> {
        on.run(given!(pass.faults(E::output(&mut self.faults)),
            values: self.values.as_mut().map(E::output),
            metadata: self.metadata.as_mut().map(E::output),
            codes: self.codes.as_mut().map(E::output),
            masked: self.masked.as_mut().map(E::output),
        ))
    }

    fn read(&self, on: &E) -> Outputs<T> {
        Outputs {
            values: on.read(self.values.as_ref()).unwrap_or_default(),
            metadata: on.read(self.metadata.as_ref()).unwrap_or_default(),
            codes: on.read(self.codes.as_ref()).unwrap_or_default(),
            masked: on.read(self.masked.as_ref()).unwrap_or_default(),
            faults: counted(on, &self.faults),
        }
    }
}

fn counted<E: TestExecutor>(on: &E, faults: &E::Buffer<u32>) -> u32 {
    on.download(faults).unwrap()[0] - BEFORE
}

impl<T: Wide> Dense<T> {
    pub(crate) fn pack<E: TestExecutor>(&self, on: &mut E, choice: &Choice) -> Result<Outputs<T>, Error> {
        let dense = on.upload(&self.dense)?;
        let codes = on.upload(if let Choice::Codes(codes) = choice { codes } else { &[] })?;
        let mut outputs = Arrays::new(on, self);
        let pass = match choice {
            Choice::Codes(_) => Pack::with_codes(self.shape, E::input(&dense), E::input(&codes)),
            Choice::Magnitude => Pack::by_magnitude(self.shape, E::input(&dense)),
            Choice::NonZeros => Pack::sparse(self.shape, E::input(&dense)),
        };
        outputs.run(on, pass.layout(self.layout))?;
        Ok(outputs.read(on))
    }

    pub(crate) fn sample<E: TestExecutor, L: Logit>(&self, on: &mut E, draw: &Draw<L>) -> Result<Outputs<T>, Error> {
        let (dense, logits) = (on.upload(&self.dense)?, on.upload(&draw.logits)?);
        let mut outputs = Arrays::new(on, self);
        let (logits, dense) = (E::input(&logits), E::input(&dense));
        let pass = Pack::from_logits(self.shape, draw.kind, draw.sampling, logits, dense).shard(draw.shard);
        outputs.run(on, pass.layout(self.layout))?;
        Ok(outputs.read(on))
    }
}

/// The dense weight, and the number of faults.
pub(crate) fn unpack<E: TestExecutor, T: Wide>(
    on: &mut E,
    shape: Shape,
    layout: Layout,
    values: &[T],
    metadata: &[u8],
) -> Result<(Vec<T>, u32), Error> {
    let (values, metadata) = (on.upload(values)?, on.upload(metadata)?);
    let (mut dense, mut faults) = (on.poisoned(shape.weights()), on.upload(&[BEFORE])?);
    let pass = Unpack::new(shape, layout, E::input(&values), E::input(&metadata), E::output(&mut dense));
    on.run(pass.faults(E::output(&mut faults)))?;
    Ok((on.download(&dense)?, counted(on, &faults)))
}

/// The metadata in another layout, and the number of faults.
pub(crate) fn reorder<E: TestExecutor>(
    on: &mut E,
    shape: Shape,
    dtype: DType,
    from: (Layout, &[u8]),
    to: Layout,
) -> Result<(Vec<u8>, u32), Error> {
    let (source, mut out) = (on.upload(from.1)?, on.poisoned(to.sizes(shape, dtype)?.metadata));
    let mut faults = on.upload(&[BEFORE])?;
    let pass = Reorder::new(shape, dtype, (from.0, E::input(&source)), (to, E::output(&mut out)));
    on.run(pass.faults(E::output(&mut faults)))?;
    Ok((on.download(&out)?, counted(on, &faults)))
}

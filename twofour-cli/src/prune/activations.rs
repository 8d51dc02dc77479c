//! What is known of the inputs of each layer, from a file that whoever ran the model on calibration data has written.

use crate::Failure;
use crate::number;
use std::path::Path;
use twofour::select::{ColumnScale, Hessian, Squares, check_hessian};
use twofour::{Cpu, Executor};
use twofour_formats::{Reader, TensorInfo, TensorType};

/// A file of activations.
pub(crate) struct Activations {
    reader: Reader<'static>,
    label: String,
}

impl Activations {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { reader: Reader::open(path)?, label: path.display().to_string() })
    }

    /// The norms of the columns of a layer's inputs, `[K]`, for Wanda; up to a factor that all columns share.
    pub(crate) fn norms(&self, layer: &str, cols: usize) -> Result<ColumnScale, Failure> {
        let norms: Vec<f32> = if let Some(squares) = self.tensor(layer, ".squares", &[cols])? {
            let sums = self.numbers(squares)?;
            sums.iter().map(|sum| sum.sqrt() as f32).collect()
        } else if self.tensor(layer, ".hessian", &[cols, cols])?.is_some() {
            let hessian = self.hessian(layer, cols)?;
            // Its diagonal is the sums of squares, times two over the number of tokens.
            (0..cols).map(|j| hessian[j * cols + j].sqrt()).collect()
        } else {
            let inputs = self.inputs(layer, cols)?;
            norms_of_inputs(cols, &self.widened(inputs)?)?
        };
        ColumnScale::new(&norms).map_err(|e| self.wrong(format!("inputs of `{layer}`: {e}; --exclude leaves it out")))
    }

    /// The Hessian of SparseGPT's loss, `[K, K]`; up to a factor.
    pub(crate) fn hessian(&self, layer: &str, cols: usize) -> Result<Vec<f32>, Failure> {
        let hessian = if let Some(hessian) = self.tensor(layer, ".hessian", &[cols, cols])? {
            self.numbers(hessian)?.into_iter().map(|number| number as f32).collect()
        } else {
            if self.reader.tensor_info(layer).is_none()
                && self.reader.tensor_info(&format!("{layer}.squares")).is_some()
            {
                let problem =
                    format!("`{layer}.squares` is enough for Wanda, and SparseGPT needs `{layer}.hessian` or inputs");
                return Err(self.wrong(problem));
            }
            let inputs = self.inputs(layer, cols)?;
            // Before the inputs, for it is what there may be no memory for.
            let mut hessian = self.room(layer, cols)?;
            let inputs = self.widened(inputs)?;
            Cpu.run(Hessian::new(inputs.len() / cols.max(1), cols, &inputs, 0, &mut hessian))
                .map_err(|e| self.wrong(format!("the Hessian of `{layer}`: {e}")))?;
            hessian
        };
        let checked = check_hessian(cols, &hessian);
        checked.map_err(|e| self.wrong(format!("the Hessian of `{layer}`: {e}; --exclude leaves it out")))?;
        Ok(hessian)
    }

    /// A tensor of a layer, which must have this shape if it is there.
    fn tensor(&self, layer: &str, ending: &str, shape: &[usize]) -> Result<Option<&TensorInfo>, Failure> {
        let Some(tensor) = self.reader.tensor_info(&format!("{layer}{ending}")) else { return Ok(None) };
        if tensor.shape() != shape {
            let (name, got) = (tensor.name(), tensor.shape());
            return Err(self.wrong(format!("`{name}` is {got:?}, and the layer needs {shape:?}")));
        }
        Ok(Some(tensor))
    }

    fn inputs(&self, layer: &str, cols: usize) -> Result<&TensorInfo, Failure> {
        match self.reader.tensor_info(layer) {
            Some(tensor) if matches!(tensor.shape(), [_, last] if *last == cols) => Ok(tensor),
            Some(tensor) => {
                Err(self.wrong(format!("`{layer}` is {:?}, and the layer's inputs are [T, {cols}]", tensor.shape())))
            }
            None => Err(self.wrong(format!(
                "nothing is known of the inputs of `{layer}`: there is no `{layer}.squares`, `{layer}.hessian` or \
                 `{layer}`; give it, or leave the layer out with --exclude"
            ))),
        }
    }

    /// Elements of any float type.
    fn numbers(&self, tensor: &TensorInfo) -> Result<Vec<f64>, Failure> {
        if tensor.dtype() == TensorType::F64 {
            let bytes = self.reader.tensor(tensor.name())?;
            return Ok(bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect());
        }
        Ok(self.widened(tensor)?.into_iter().map(f64::from).collect())
    }

    fn widened(&self, tensor: &TensorInfo) -> Result<Vec<f32>, Failure> {
        let widened = number::widened(tensor.dtype(), &self.reader.tensor(tensor.name())?);
        widened.map_err(|e| self.wrong(format!("`{}`: {e}", tensor.name())))
    }

    /// A Hessian of zeros.
    fn room(&self, layer: &str, cols: usize) -> Result<Vec<f32>, Failure> {
        Hessian::zeros(cols).map_err(|e| self.wrong(format!("the Hessian of `{layer}`: {e}")))
    }

    /// That there is memory for the Hessian of a layer, and that it or the inputs can be meant: without the product.
    pub(crate) fn check_hessian(&self, layer: &str, cols: usize) -> Result<(), Failure> {
        if self.tensor(layer, ".hessian", &[cols, cols])?.is_some() {
            return self.hessian(layer, cols).map(drop);
        }
        self.room(layer, cols)?;
        // Each column's norm is the root of the Hessian's diagonal: inputs are finite, and not all are 0.
        if self.reader.tensor_info(layer).is_none() {
            return self.hessian(layer, cols).map(drop);
        }
        let inputs = self.inputs(layer, cols)?;
        let checked = ColumnScale::new(&norms_of_inputs(cols, &self.widened(inputs)?)?).map(drop);
        checked.map_err(|e| self.wrong(format!("inputs of `{layer}`: {e}; --exclude leaves it out")))
    }

    fn wrong(&self, problem: String) -> Failure {
        format!("{}: {problem}", self.label).into()
    }
}

fn norms_of_inputs(cols: usize, inputs: &[f32]) -> Result<Vec<f32>, Failure> {
    let (mut sums, mut norms) = (vec![0.0; cols], vec![0.0; cols]);
    Cpu.run(Squares::new(inputs.len() / cols.max(1), cols, inputs, &mut sums).norms(&mut norms))?;
    Ok(norms)
}

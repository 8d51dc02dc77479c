// cuSPARSELt as it was before 0.8: without names of statuses, and without a call that ends a choice of algorithm.
#define BEFORE_0_8
#include "cusparselt.c"

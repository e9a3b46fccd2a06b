"""Options of trtexec by version: names only, as its source accepts them.

Source: every string literal `"--NAME"` in `samples/common/sampleOptions.cpp` of github.com/NVIDIA/TensorRT at
release/10.3 (commit 5b990f0), release/10.16 (d0faf30) and release/11.1 (9053616), read on 2026-11-23. trtexec
ends with an error for an option that it does not know. 11.2 and newer are not published as source there.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_10_3 = _names(
    """
    allocationStrategy allowGPUFallback allowWeightStreaming avgRuns avgTiming best bf16
    buildDLAStandalone builderOptimizationLevel calib calibProfile consistency device directIO
    dumpLayerInfo dumpOptimizationProfile dumpOutput dumpProfile dumpRawBindingsToFile dumpRefit
    duration dynamicPlugins errorOnTimingCacheMiss excludeLeanRuntime exportLayerInfo exportOutput
    exportProfile exportTimes exposeDMA fp16 fp8 getPlanVersionOnly hardwareCompatibilityLevel help
    idleTime ignoreParsedPluginLibs infStreams inputIOFormats int4 int8 iterations layerDeviceTypes
    layerOutputTypes layerPrecisions leanDLLPath loadEngine loadInputs markDebug maxAuxStreams
    maxShapes maxShapesCalib memPoolSize minShapes minShapesCalib noBuilderCache noCompilationCache
    noDataTransfers noTF32 onnx optShapes optShapesCalib outputIOFormats percentile
    persistentCacheRatio pi pluginInstanceNorm plugins precisionConstraints preview profile
    profilingVerbosity refit restricted runtimePlatform safe saveDebugTensors saveEngine
    separateProfileRun serialized setPluginsToSerialize shapes skipInference sleepTime sparsity
    staticPlugins std streams stripAllWeights stripWeights stronglyTyped tacticSources tempdir
    tempfileControls threads timeDeserialize timeRefit timingCacheFile useCudaGraph useDLACore
    useManagedMemory useProfile useRuntime useSpinWait vc verbose versionCompatible warmUp
    weightStreamingBudget weightless
    """
)

_NEW_IN_10_16 = _names(
    """
    adjustForDLA asyncFileReader cpuOnly decomposableAttentions distributiveIndependence
    dumpKernelText enablePluginOverride l2LimitForTiling markUnfusedTensorsAsDebugTensors maxTactics
    monitorMemory refitFromOnnx remoteAutoTuningConfig reportCapabilityDLA safetyPlugins
    saveAllDebugTensors tilingOptimizationLevel uint8AsymmetricQuantizationDLA
    """
)

_NEW_IN_11_1 = _names(
    """
    accuracyAlgorithm accuracyThreshold atol continue dryRun helpBuildRoute includeDataTransfers
    loadRefOutputs noCudaGraph noSpinWait refPair rtol saveAllEngines setBuildRoute
    tuneBuildRouteFile tuneBuildRoutes tuningCacheFile tuningResultFile tuningSearch tuningTimeOut
    """
)

_GONE_IN_11_1 = _names(
    """
    best bf16 calib calibProfile fp16 fp8 int4 layerOutputTypes layerPrecisions maxShapesCalib
    minShapesCalib optShapesCalib precisionConstraints restricted weightless
    """
)

FLAGS: dict[str, frozenset[str]] = {
    "10.3": _10_3,
    "10.16": _10_3 | _NEW_IN_10_16,
    "11.1": (_10_3 | _NEW_IN_10_16 | _NEW_IN_11_1) - _GONE_IN_11_1,
}
"""Version -> its options, without the dashes."""


def unknown(argv: list[str], version: str) -> list[str]:
    """The options in `argv` that trtexec of that version does not have."""
    names = [word[2:].partition("=")[0] for word in argv if word.startswith("--")]
    return [name for name in names if name not in FLAGS[version]]

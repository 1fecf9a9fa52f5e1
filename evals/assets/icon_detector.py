"""MMDetection config of the icon world's detector: a small RTMDet, read with `mmengine.config.Config.fromfile`.

Images are brought to 128 x 128 pixels first, so 64 px icon images are seen at twice their size and the strides 8, 16
and 32 fit icons of 12 to 45 px. Trained by `train_detector.py`, which writes the weights and the model card beside this
file, with the loss of `detector_loss.py`; `loss_cls` and `train_cfg` here serve who goes on with MMDetection's own.
"""

image_size_px = 128

model = dict(
    type="RTMDet",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[127.5, 127.5, 127.5],
        std=[64.0, 64.0, 64.0],
        bgr_to_rgb=False,  # the detector feeds RGB
        batch_augments=None,
    ),
    backbone=dict(
        # Plain dense convolutions: on a CPU twice as fast to train as CSPNeXt at the same number of operations.
        type="ResNet",
        depth=18,
        base_channels=32,
        stem_channels=32,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[64, 128, 256], out_channels=64, num_outs=3),
    bbox_head=dict(
        type="RTMDetSepBNHead",
        num_classes=80,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0.5, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="ReLU", inplace=True),
    ),
    train_cfg=dict(
        assigner=dict(type="DynamicSoftLabelAssigner", topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=300, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
    ),
)

python -m examples.digits.train tune --dataset digits --method adaptformer --bit 1 --dim 32 --r_layer 6 --scale 1 --lr 1e-3 --epochs 9 --val-every 3

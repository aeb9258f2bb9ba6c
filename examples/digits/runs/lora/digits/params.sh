python -m examples.digits.train tune --dataset digits --method lora --bit 32 --dim 8 --r_layer 6 --scale 1 --lr 2e-3 --epochs 9 --val-every 3
